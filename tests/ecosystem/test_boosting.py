"""Gradient-boosted trees of LightGBM and XGBoost, through onnxmltools.

The last tests are onnxmltools' own comparison of a model with its ONNX form, whose only change is
that its `import onnxruntime` gives Tilth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ecosystem_helpers import onnxruntime_is_tilth, require
from ecosystem_report import require_close

require("onnxmltools", "lightgbm", "xgboost", "sklearn")

import onnxmltools  # noqa: E402
from lightgbm import LGBMClassifier, LGBMRegressor  # noqa: E402
from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: E402
from onnxmltools.utils.tests_helper import dump_data_and_model  # noqa: E402
from xgboost import XGBClassifier, XGBRegressor, XGBRFClassifier, XGBRFRegressor  # noqa: E402

import tilth.onnx.session as rt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL: dict[str, Any] = {"n_estimators": 20, "random_state": 0}
LIGHTGBM: dict[str, Any] = {**SMALL, "min_child_samples": 5, "verbose": -1}


@pytest.fixture
def x(rng) -> np.ndarray:
    """Samples with missing values, which boosters send to a side of their own."""
    x = rng.standard_normal((120, 6)).astype(np.float32)
    x[rng.random(x.shape) < 0.05] = np.nan
    return x


def targets(x: np.ndarray, classes: int) -> np.ndarray:
    """Numbers if `classes` is 0, else classes."""
    filled = np.nan_to_num(x)
    score = filled[:, 0] * filled[:, 1] + filled[:, 2]
    return np.digitize(score, np.linspace(-1, 1, classes + 1)[1:-1]) if classes else score


def convert(model: Any, features: int) -> Any:
    kinds = [("X", FloatTensorType([None, features]))]
    make = onnxmltools.convert_xgboost
    if type(model).__module__.startswith("lightgbm"):
        make = onnxmltools.convert_lightgbm
    return make(model, initial_types=kinds, target_opset=15)


def run(model: Any, x: np.ndarray) -> list[Any]:
    onx = convert(model, x.shape[1])
    session = rt.InferenceSession(onx.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


REGRESSORS = [
    LGBMRegressor(**LIGHTGBM),
    LGBMRegressor(**LIGHTGBM, objective="poisson"),
    LGBMRegressor(**LIGHTGBM, boosting_type="dart"),
    XGBRegressor(**SMALL),
    XGBRegressor(**SMALL, max_depth=2, base_score=0.3),
    XGBRFRegressor(**SMALL),
]
CLASSIFIERS = [
    (LGBMClassifier(**LIGHTGBM), 2),
    (LGBMClassifier(**LIGHTGBM), 3),
    (XGBClassifier(**SMALL), 2),
    (XGBClassifier(**SMALL), 4),
    (XGBClassifier(**SMALL, base_score=0.3), 2),
    (XGBRFClassifier(**SMALL), 2),
]


def _name(value: Any) -> str:
    return str(value) if isinstance(value, int) else type(value).__name__


@pytest.mark.parametrize("model", REGRESSORS, ids=_name)
def test_regressors_predict_the_same(model, x):
    y = targets(x, 0)
    model.fit(x, np.exp(y) if model.get_params().get("objective") == "poisson" else y)
    (got,) = run(model, x)
    require_close(got.ravel(), model.predict(x))


@pytest.mark.parametrize(("model", "classes"), CLASSIFIERS, ids=_name)
def test_classifiers_predict_the_same(model, classes, x):
    model.fit(x, targets(x, classes))
    label, scores = run(model, x)
    rows = [list(row.values()) for row in scores] if isinstance(scores, list) else scores
    assert label.tolist() == model.predict(x).tolist()
    require_close(rows, model.predict_proba(x))


@pytest.fixture
def drop_in() -> Iterator[None]:
    logging.getLogger("tilth").setLevel(logging.ERROR)
    with onnxruntime_is_tilth():
        yield


@pytest.mark.parametrize("model", REGRESSORS, ids=_name)
def test_onnxmltools_finds_no_difference_of_regressors(model, x, drop_in, tmp_path):
    y = targets(x, 0)
    model.fit(x, np.exp(y) if model.get_params().get("objective") == "poisson" else y)
    onx = convert(model, x.shape[1])
    dump_data_and_model(x, model, onx, basename="Regressor-Dec4", folder=str(tmp_path))


@pytest.mark.parametrize(("model", "classes"), CLASSIFIERS, ids=_name)
def test_onnxmltools_finds_no_difference_of_classifiers(model, classes, x, drop_in, tmp_path):
    model.fit(x, targets(x, classes))
    onx = convert(model, x.shape[1])
    dump_data_and_model(x, model, onx, basename="Classifier", folder=str(tmp_path))


def test_onnxmltools_does_find_differences(x, drop_in, tmp_path):
    """The comparison above is made: it fails for the ONNX form of another model."""
    model = XGBRegressor(**SMALL).fit(x, targets(x, 0))
    other = convert(XGBRegressor(**SMALL).fit(x, 1 + targets(x, 0)), x.shape[1])
    with pytest.raises(AssertionError):
        dump_data_and_model(x, model, other, basename="Other", folder=str(tmp_path))
