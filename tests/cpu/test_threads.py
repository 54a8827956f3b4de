"""The SPMD runtime: barriers order steps, calls take turns, forks work, idling costs nothing."""

import ctypes
import gc
import os
import threading
import time

import numpy as np
import pytest

from tilth.cpu.emit import F32, I64, PTR, Emitter
from tilth.cpu.isa import host_isa
from tilth.cpu.jit import compile_objects
from tilth.cpu.kernel import Kernel
from tilth.cpu.memory import assign
from tilth.cpu.program import emit_program, scratch_bytes
from tilth.cpu.region import CpuRegion
from tilth.cpu.steps import Step
from tilth.cpu.view import Buffer, dense_view
from tilth.ir.graph import make_constant
from tilth.ir.types import TensorType, f32
from tilth.runtime import threads
from tilth.runtime.target import KernelInfo

N, STEPS = 64, 40
TYPE = TensorType(f32, (N,))


def emit_mean(module, isa, name):
    """result[i] = mean of all operands: every item needs what all threads wrote before."""
    e = Emitter(module, isa, name, [PTR, PTR, PTR, I64, I64, I64])
    x, result, _, begin, end, _ = e.args
    with e.loop(begin, end) as i:
        total = e.var(F32, F32(0.0))
        with e.loop(0, N) as j:
            element = e.load(e.offset(x, e.b.mul(j, I64(4))), F32)
            e.b.store(e.b.fadd(e.load(total, F32), element), total)
        mean = e.b.fmul(e.load(total, F32), F32(1 / N))
        e.store(mean, e.offset(result, e.b.mul(i, I64(4))))
    return e.finish()


def chain_of_means(threads: int) -> CpuRegion:
    kernel = Kernel("mean", "mean", emit_mean, items=N)
    node = make_constant(np.zeros(1, np.float32)).node
    views = [dense_view(Buffer("input", 4 * N), TYPE)]
    steps = []
    for i in range(STEPS):
        kind = "output" if i == STEPS - 1 else "arena"
        views.append(dense_view(Buffer(kind, 4 * N), TYPE))
        steps.append(Step(kernel, (views[-2],), (views[-1],), node))
    memory, isa = assign(steps), host_isa()
    code = compile_objects(emit_program(steps, memory, 1, isa, threads), isa)
    infos = tuple(KernelInfo("mean", ("mean",), "", 0, 0) for _ in steps)
    return CpuRegion(
        *(code, memory.pack_weights(), (TYPE,), (TYPE,), infos),
        *(memory.arena_bytes, scratch_bytes(steps), threads),
    )


@pytest.fixture(scope="module", params=[1, 2, 3])
def region(request):
    return chain_of_means(request.param)


def check(region: CpuRegion, calls: int) -> None:
    x = np.random.default_rng(0).random(N, dtype=np.float32)
    for _ in range(calls):
        np.testing.assert_allclose(region([x])[0], x.mean(), rtol=1e-5)


def test_barriers_order_the_steps(region):
    check(region, calls=500)


def test_a_region_may_be_dropped_right_after_its_call():
    for _ in range(20):  # a helper that were still inside its code would crash the process
        check(chain_of_means(threads=2), calls=3)


def test_arena_is_reused_between_steps_whose_buffers_are_dead(region):
    assert region.arena_bytes == 2 * 4 * N


def test_python_threads_calling_at_once_get_right_answers(region):
    failures = []

    def work():
        try:
            check(region, calls=100)
        except AssertionError as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own(region):
    check(region, calls=10)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check(region, calls=10)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_idle_threads_sleep(region):
    check(region, calls=10)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_helpers_keep_off_the_callers_core(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    monkeypatch.setattr(threads, "_pools", {})
    mean = chain_of_means(2)
    for own in cores[:2]:
        monkeypatch.setattr(threads, "_current_core", lambda core=own: core)
        check(mean, calls=1)
        (helper,) = threads._pools[2]._helpers
        assert os.sched_getaffinity(helper) == set(cores) - {own}
    assert os.sched_getaffinity(0) == set(cores)  # the caller's own are left alone


def test_the_other_cores_are_dealt_among_the_helpers(monkeypatch):
    dealt = {}
    lent = threads.Pool.__new__(threads.Pool)
    lent.crowded, lent._cores, lent._caller_core = False, set(range(8)), -1
    lent._helpers = [101, 102, 103]
    monkeypatch.setattr(threads, "_current_core", lambda: 2)
    monkeypatch.setattr(os, "sched_setaffinity", dealt.__setitem__)
    lent.place()
    assert dealt == {101: [0, 4, 7], 102: [1, 5], 103: [3, 6]}
    dealt.clear()
    lent.place()
    assert not dealt  # the caller has not moved


def test_more_threads_than_cores_are_left_to_the_system(monkeypatch):
    monkeypatch.setattr(threads, "_pools", {})
    monkeypatch.setattr(threads, "_usable_cores", lambda: {0})
    monkeypatch.setattr(os, "sched_setaffinity", None)
    check(chain_of_means(2), calls=3)
    assert threads._pools[2].crowded


def test_a_helper_may_lose_its_cores(monkeypatch):
    """A container's cores may be changed at any time."""

    def refuse(native_id, cores):
        raise OSError("invalid argument")

    monkeypatch.setattr(threads, "_pools", {})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    check(chain_of_means(2), calls=3)


def test_a_profile_has_one_record_per_step_and_thread(region):
    records = region.profile([np.ones(N, np.float32)])
    assert len(records) == STEPS * region.threads
    assert all(r.seconds >= 0 for r in records)


def test_a_region_survives_its_state(region):
    check(CpuRegion.from_state(region.state()), calls=3)


def test_the_helpers_memory_outlives_the_interpreters_last_reference(monkeypatch):
    monkeypatch.setattr(threads, "_pools", {})
    check(chain_of_means(2), calls=1)
    address = threads._pools[2].address
    threads._pools.clear()
    gc.collect()
    assert len(ctypes.string_at(address, 64)) == 64  # would crash if it were unmapped
