"""Devices are named kind[:model][#index]."""

import pytest

import tilth
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.target import Device


def test_names_round_trip():
    for name in ("cpu", "reference"):
        assert str(parse_device(name)) == name
    assert str(Device("npu", "ascend910b3", 2)) == "npu:ascend910b3#2"


@pytest.mark.parametrize("name", ["", "CPU", "cpu:", "cpu#", "cpu#x", "a b", "gpu", "cpu#7"])
def test_other_names_are_refused_with_what_there_is(name: str):
    with pytest.raises(tilth.DeviceError, match="cpu"):
        parse_device(name)


def test_the_listed_devices_can_be_named():
    found = tilth.devices()
    assert [str(d) for d in found] == ["cpu", "reference"]
    assert all(parse_device(str(d)) == d and d.description for d in found)


def test_the_cpu_says_how_many_cores_may_be_used():
    assert f"{usable_cores()} core" in tilth.devices()[0].description
