"""scikit-learn estimators through skl2onnx: predictions are scikit-learn's.

The code is skl2onnx's tutorial with one import changed: convert, make a session, run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ecosystem_helpers import require
from ecosystem_report import require_close

require("sklearn", "skl2onnx")

from skl2onnx import to_onnx  # noqa: E402
from sklearn import (  # noqa: E402
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    random_projection,
    svm,
    tree,
)
from sklearn.base import BaseEstimator, clone, is_classifier  # noqa: E402

import tilth.onnx.session as rt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
OPSETS = {"": 20, "ai.onnx.ml": 3}


@dataclass(frozen=True)
class Data:
    """Samples and targets to learn from, and samples to be asked about."""

    x: np.ndarray
    y: Any
    asked: np.ndarray


def _plain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 5)).astype(np.float32)
    return x, rng.standard_normal((17, 5)).astype(np.float32), x @ rng.standard_normal((5, 3))


def numbers() -> Data:
    x, asked, scores = _plain()
    return Data(x, (scores[:, 0] + 0.3 * x[:, 1] ** 2).astype(np.float32), asked)


def classes() -> Data:
    x, asked, scores = _plain()
    return Data(x, scores.argmax(1), asked)


def two_classes() -> Data:
    x, asked, scores = _plain()
    return Data(x, (scores[:, 0] > 0).astype(np.int64), asked)


def named_classes() -> Data:
    x, asked, scores = _plain()
    return Data(x, np.array(["ant", "bee", "cat"])[scores.argmax(1)], asked)


def several_numbers() -> Data:
    data = numbers()
    return Data(data.x, np.stack([data.y, 1 - data.y], 1), data.asked)


def positive() -> Data:
    data = numbers()
    return Data(data.x, np.abs(data.y) + 0.1, data.asked)


def counts() -> Data:
    data = classes()
    return Data(np.abs(data.x), data.y, np.abs(data.asked))


def categories() -> Data:
    data = classes()
    as_category = [np.minimum(np.abs(x), 1).round() for x in (data.x, data.asked)]
    return Data(as_category[0], data.y, as_category[1])


def missing() -> Data:
    data = numbers()
    data.x[::7, 2] = data.asked[::5, 2] = np.nan
    return data


LOGISTIC = linear_model.LogisticRegression()
RIDGE = linear_model.Ridge()
SHALLOW = tree.DecisionTreeClassifier(max_depth=3, random_state=0)

# Each estimator, and the data it is tried on.
ESTIMATORS: list[tuple[BaseEstimator, Callable[[], Data]]] = [
    # linear models
    (linear_model.ARDRegression(), numbers),
    (linear_model.BayesianRidge(), numbers),
    (linear_model.ElasticNet(alpha=0.1), numbers),
    (linear_model.ElasticNetCV(), numbers),
    (linear_model.GammaRegressor(), positive),
    (linear_model.HuberRegressor(), numbers),
    (linear_model.Lars(), numbers),
    (linear_model.LarsCV(), numbers),
    (linear_model.Lasso(alpha=0.1), numbers),
    (linear_model.LassoCV(), numbers),
    (linear_model.LassoLars(alpha=0.1), numbers),
    (linear_model.LassoLarsCV(), numbers),
    (linear_model.LassoLarsIC(), numbers),
    (linear_model.LinearRegression(), numbers),
    (linear_model.LogisticRegression(), classes),
    (linear_model.LogisticRegression(), two_classes),
    (linear_model.LogisticRegression(), named_classes),
    (linear_model.LogisticRegressionCV(), classes),
    (linear_model.MultiTaskElasticNet(alpha=0.1), several_numbers),
    (linear_model.MultiTaskElasticNetCV(), several_numbers),
    (linear_model.MultiTaskLasso(alpha=0.1), several_numbers),
    (linear_model.MultiTaskLassoCV(), several_numbers),
    (linear_model.OrthogonalMatchingPursuit(), numbers),
    (linear_model.OrthogonalMatchingPursuitCV(), numbers),
    (linear_model.Perceptron(random_state=0), classes),
    (linear_model.PoissonRegressor(), positive),
    (linear_model.QuantileRegressor(), numbers),
    (linear_model.RANSACRegressor(random_state=0), numbers),
    (linear_model.Ridge(), numbers),
    (linear_model.RidgeCV(), numbers),
    (linear_model.RidgeClassifier(), classes),
    (linear_model.RidgeClassifierCV(), classes),
    (linear_model.SGDClassifier(loss="log_loss", random_state=0), classes),
    (linear_model.SGDClassifier(loss="modified_huber", random_state=0), two_classes),
    (linear_model.SGDOneClassSVM(random_state=0), numbers),
    (linear_model.SGDRegressor(random_state=0), numbers),
    (linear_model.TheilSenRegressor(random_state=0), numbers),
    (linear_model.TweedieRegressor(power=1.5), positive),
    # support vector machines
    (svm.LinearSVC(random_state=0), classes),
    (svm.LinearSVR(random_state=0), numbers),
    (svm.NuSVC(probability=True, random_state=0), classes),
    (svm.NuSVC(random_state=0), two_classes),
    (svm.NuSVR(), numbers),
    (svm.OneClassSVM(), numbers),
    (svm.SVC(probability=True, random_state=0), classes),
    (svm.SVC(probability=True, random_state=0), two_classes),
    (svm.SVC(kernel="linear"), classes),
    (svm.SVC(kernel="poly"), named_classes),
    (svm.SVC(kernel="sigmoid"), two_classes),
    (svm.SVR(), numbers),
    # trees
    (tree.DecisionTreeClassifier(random_state=0), classes),
    (tree.DecisionTreeClassifier(random_state=0), two_classes),
    (tree.DecisionTreeClassifier(random_state=0), named_classes),
    (tree.DecisionTreeRegressor(random_state=0), numbers),
    (tree.DecisionTreeRegressor(random_state=0), several_numbers),
    (tree.ExtraTreeClassifier(random_state=0), classes),
    (tree.ExtraTreeRegressor(random_state=0), numbers),
    # ensembles
    (ensemble.AdaBoostClassifier(n_estimators=10, random_state=0), classes),
    (ensemble.AdaBoostRegressor(n_estimators=10, random_state=0), numbers),
    (ensemble.BaggingClassifier(n_estimators=5, random_state=0), classes),
    (ensemble.BaggingRegressor(n_estimators=5, random_state=0), numbers),
    (ensemble.ExtraTreesClassifier(n_estimators=10, random_state=0), classes),
    (ensemble.ExtraTreesRegressor(n_estimators=10, random_state=0), numbers),
    (ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), classes),
    (ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), two_classes),
    (ensemble.GradientBoostingRegressor(n_estimators=10, random_state=0), numbers),
    (ensemble.IsolationForest(n_estimators=10, random_state=0), numbers),
    (ensemble.RandomForestClassifier(n_estimators=10, random_state=0), classes),
    (ensemble.RandomForestClassifier(n_estimators=10, random_state=0), named_classes),
    (ensemble.RandomForestRegressor(n_estimators=10, random_state=0), numbers),
    (ensemble.StackingClassifier([("a", LOGISTIC), ("b", SHALLOW)]), classes),
    (ensemble.StackingRegressor([("a", RIDGE), ("b", linear_model.Lasso())]), numbers),
    (
        ensemble.VotingClassifier(
            [("a", LOGISTIC), ("b", SHALLOW)], voting="soft", flatten_transform=False
        ),
        classes,
    ),
    (ensemble.VotingRegressor([("a", RIDGE), ("b", linear_model.Lasso())]), numbers),
    # naive Bayes, discriminants, processes, networks, mixtures, neighbours, clusters
    (naive_bayes.BernoulliNB(), classes),
    (naive_bayes.CategoricalNB(), categories),
    (naive_bayes.ComplementNB(), counts),
    (naive_bayes.GaussianNB(), classes),
    (naive_bayes.MultinomialNB(), counts),
    (discriminant_analysis.LinearDiscriminantAnalysis(), classes),
    (discriminant_analysis.QuadraticDiscriminantAnalysis(), classes),
    (gaussian_process.GaussianProcessRegressor(alpha=0.1), numbers),
    (neural_network.MLPClassifier(hidden_layer_sizes=(8,), max_iter=50, random_state=0), classes),
    (neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=50, random_state=0), numbers),
    (mixture.BayesianGaussianMixture(n_components=2, random_state=0), numbers),
    (mixture.GaussianMixture(2, random_state=0), numbers),
    (neighbors.KNeighborsClassifier(), classes),
    (neighbors.KNeighborsRegressor(), numbers),
    (neighbors.LocalOutlierFactor(novelty=True), numbers),
    (neighbors.RadiusNeighborsClassifier(radius=4.0), classes),
    (neighbors.RadiusNeighborsRegressor(radius=4.0), numbers),
    (cluster.KMeans(3, random_state=0), numbers),
    (cluster.MiniBatchKMeans(3, random_state=0), numbers),
    (cross_decomposition.PLSRegression(), numbers),
    # wrappers
    (calibration.CalibratedClassifierCV(LOGISTIC), classes),
    (calibration.CalibratedClassifierCV(SHALLOW), two_classes),
    (model_selection.GridSearchCV(LOGISTIC, {"C": [0.1, 1.0]}), classes),
    (multiclass.OneVsOneClassifier(LOGISTIC), classes),
    (multiclass.OneVsRestClassifier(LOGISTIC), classes),
    (multioutput.MultiOutputRegressor(RIDGE), several_numbers),
    (pipeline.make_pipeline(preprocessing.StandardScaler(), LOGISTIC), classes),
    # transformers
    (preprocessing.Binarizer(), numbers),
    (preprocessing.FunctionTransformer(), numbers),
    (preprocessing.KBinsDiscretizer(3, encode="ordinal"), numbers),
    (preprocessing.MaxAbsScaler(), numbers),
    (preprocessing.MinMaxScaler(), numbers),
    (preprocessing.Normalizer("l1"), numbers),
    (preprocessing.Normalizer("l2"), numbers),
    (preprocessing.OneHotEncoder(sparse_output=False), categories),
    (preprocessing.OrdinalEncoder(), categories),
    (preprocessing.PolynomialFeatures(3), numbers),
    (preprocessing.PowerTransformer(), numbers),
    (preprocessing.QuantileTransformer(n_quantiles=20), numbers),
    (preprocessing.RobustScaler(), numbers),
    (preprocessing.StandardScaler(), numbers),
    (preprocessing.TargetEncoder(target_type="continuous"), categories),
    (impute.KNNImputer(), missing),
    (impute.SimpleImputer(), missing),
    (impute.SimpleImputer(strategy="median"), missing),
    (decomposition.IncrementalPCA(3), numbers),
    (decomposition.KernelPCA(3, kernel="rbf"), numbers),
    (decomposition.PCA(3), numbers),
    (decomposition.TruncatedSVD(3, random_state=0), numbers),
    (random_projection.GaussianRandomProjection(3, random_state=0), numbers),
    (neighbors.NeighborhoodComponentsAnalysis(3, random_state=0), classes),
    (feature_extraction.text.TfidfTransformer(), counts),
    (feature_selection.GenericUnivariateSelect(), classes),
    (feature_selection.RFE(RIDGE), numbers),
    (feature_selection.RFECV(RIDGE), numbers),
    (feature_selection.SelectFdr(), classes),
    (feature_selection.SelectFpr(), classes),
    (feature_selection.SelectFromModel(RIDGE), numbers),
    (feature_selection.SelectFwe(), classes),
    (feature_selection.SelectKBest(k=3), classes),
    (feature_selection.SelectPercentile(percentile=50), classes),
    (feature_selection.VarianceThreshold(), numbers),
    (
        compose.ColumnTransformer(
            [
                ("s", preprocessing.StandardScaler(), [0, 1]),
                ("r", preprocessing.RobustScaler(), [3]),
            ]
        ),
        numbers,
    ),
    (
        pipeline.FeatureUnion([("s", preprocessing.StandardScaler()), ("p", decomposition.PCA(2))]),
        numbers,
    ),
]


def _name(estimator: BaseEstimator, data: Callable[[], Data]) -> str:
    return f"{type(estimator).__name__}-{data.__name__}"


CASES = [pytest.param(e, d, id=_name(e, d)) for e, d in ESTIMATORS]
# skl2onnx gives the probabilities of neighbours within a radius as a tensor only.
CLASSIFIERS = [
    pytest.param(e, d, id=_name(e, d))
    for e, d in ESTIMATORS
    if is_classifier(e)
    and hasattr(e, "predict_proba")
    and not isinstance(e, neighbors.RadiusNeighborsClassifier)
]


def fitted(estimator: BaseEstimator, data: Data) -> BaseEstimator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(estimator).fit(data.x, data.y)


def session(estimator: BaseEstimator, data: Data, **options: Any) -> rt.InferenceSession:
    onx = to_onnx(
        estimator,
        data.x[:1],
        options={id(estimator): options} if options else None,
        target_opset=OPSETS,
    )
    return rt.InferenceSession(onx.SerializeToString(), providers=["CPUExecutionProvider"])


def expected(estimator: BaseEstimator, asked: np.ndarray) -> np.ndarray:
    if hasattr(estimator, "predict") and not isinstance(estimator, feature_selection.RFE):
        return estimator.predict(asked)
    result = estimator.transform(asked)
    return result.toarray() if hasattr(result, "toarray") else result


def assert_same(got: Any, want: Any) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.size == want.size
    got = got.reshape(want.shape)
    if want.dtype.kind == "f":
        require_close(got.astype(want.dtype), want)
    else:
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize(("estimator", "make"), CASES)
def test_predictions_are_those_of_scikit_learn(estimator, make):
    data = make()
    model = fitted(estimator, data)
    sess = session(model, data)
    pred_onx = sess.run(None, {sess.get_inputs()[0].name: data.asked})[0]
    assert_same(pred_onx, expected(model, data.asked))


@pytest.mark.parametrize(("estimator", "make"), CLASSIFIERS)
def test_probabilities_are_a_list_of_dictionaries(estimator, make):
    data = make()
    model = fitted(estimator, data)
    label, rows = session(model, data).run(None, {"X": data.asked})
    assert_same(label, model.predict(data.asked))
    assert isinstance(rows, list)
    assert [list(row) for row in rows] == [model.classes_.tolist()] * len(data.asked)
    assert_same([list(row.values()) for row in rows], model.predict_proba(data.asked))


@pytest.mark.parametrize(("estimator", "make"), CLASSIFIERS)
def test_probabilities_are_a_tensor_without_zipmap(estimator, make):
    data = make()
    model = fitted(estimator, data)
    _, probabilities = session(model, data, zipmap=False).run(None, {"X": data.asked})
    assert probabilities.shape == (len(data.asked), len(model.classes_))
    assert_same(probabilities, model.predict_proba(data.asked))


def test_at_least_sixty_kinds_of_estimators_are_tried():
    assert len({type(e) for e, _ in ESTIMATORS}) >= 60


# More than one input or output


def test_all_outputs_of_a_multi_output_classifier():
    data = classes()
    targets = np.stack([data.y, two_classes().y], 1)
    model = multioutput.MultiOutputClassifier(LOGISTIC).fit(data.x, targets)
    label, probabilities = session(model, data, zipmap=False).run(None, {"X": data.asked})
    assert_same(label, model.predict(data.asked))
    for got, want in zip(probabilities, model.predict_proba(data.asked), strict=True):
        assert_same(got, want)


def test_scores_of_an_outlier_detector():
    data = numbers()
    model = fitted(ensemble.IsolationForest(n_estimators=10, random_state=0), data)
    _, scores = session(model, data).run(None, {"X": data.asked})
    assert_same(scores, model.decision_function(data.asked))


def test_columns_of_numbers_and_of_strings():
    """As read from a table: a column of strings beside columns of numbers."""
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    rng = np.random.default_rng(0)
    size, colour = rng.standard_normal((40, 2)).astype(np.float32), rng.choice(["red", "blue"], 40)
    table = np.concatenate([size.astype(object), colour.reshape(-1, 1)], 1)
    model = pipeline.make_pipeline(
        compose.ColumnTransformer(
            [
                ("n", preprocessing.StandardScaler(), [0, 1]),
                ("c", preprocessing.OneHotEncoder(handle_unknown="ignore"), [2]),
            ]
        ),
        LOGISTIC,
    ).fit(table, np.where(colour == "red", size[:, 0] > 0, size[:, 1] > 0).astype(int))
    types = [("size", FloatTensorType([None, 2])), ("colour", StringTensorType([None, 1]))]
    onx = to_onnx(model, initial_types=types, target_opset=OPSETS)
    sess = rt.InferenceSession(onx.SerializeToString(), providers=["CPUExecutionProvider"])
    label, rows = sess.run(None, {"size": size, "colour": colour.reshape(-1, 1)})
    assert_same(label, model.predict(table))
    assert_same([list(r.values()) for r in rows], model.predict_proba(table))


def test_labels_are_encoded_and_binarized():
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    words = np.array(["b", "a", "c", "a"])
    encoder = preprocessing.LabelEncoder().fit(words)
    onx = to_onnx(encoder, initial_types=[("X", StringTensorType([None]))], target_opset=OPSETS)
    sess = rt.InferenceSession(onx.SerializeToString())
    assert_same(sess.run(None, {"X": words})[0], encoder.transform(words))

    numbers_ = np.array([[3], [1], [2], [1]])
    binarizer = preprocessing.LabelBinarizer().fit(numbers_)
    onx = to_onnx(binarizer, initial_types=[("X", Int64TensorType([None, 1]))], target_opset=OPSETS)
    sess = rt.InferenceSession(onx.SerializeToString())
    assert_same(sess.run(None, {"X": numbers_})[0], binarizer.transform(numbers_))


def test_dictionaries_are_vectorized():
    from skl2onnx.common.data_types import DictionaryType, FloatTensorType, StringTensorType

    rows = [{"a": 1.0, "b": 2.0}, {"c": 3.0, "a": 4.0}]
    vectorizer = feature_extraction.DictVectorizer(sparse=False).fit(rows)
    kind = DictionaryType(StringTensorType([1]), FloatTensorType([1]))
    onx = to_onnx(vectorizer, initial_types=[("X", kind)], target_opset=OPSETS)
    sess = rt.InferenceSession(onx.SerializeToString())
    for row in rows:
        assert_same(sess.run(None, {"X": row})[0], vectorizer.transform([row]))


TEXTS = ["the cat sat", "The dog sat, and sat.", "a cat and a dog", "birds", "nothing known"]


@pytest.mark.parametrize(
    "vectorizer",
    [
        feature_extraction.text.CountVectorizer(),
        feature_extraction.text.CountVectorizer(ngram_range=(1, 2), lowercase=False),
        feature_extraction.text.CountVectorizer(stop_words=["the"]),
        feature_extraction.text.CountVectorizer(analyzer="char", ngram_range=(2, 3)),
        feature_extraction.text.TfidfVectorizer(),
        feature_extraction.text.TfidfVectorizer(norm="l1", ngram_range=(1, 2)),
    ],
    ids=repr,
)
def test_texts_are_vectorized(vectorizer):
    from skl2onnx.common.data_types import StringTensorType

    model = clone(vectorizer).fit(TEXTS[:4])
    # skl2onnx asks for the expression that finds words: its default separators cut otherwise.
    options = {} if model.analyzer == "char" else {id(model): {"tokenexp": "[a-zA-Z0-9_]{2,}"}}
    kind = [("X", StringTensorType([None, 1]))]
    onx = to_onnx(model, initial_types=kind, options=options, target_opset=OPSETS)
    sess = rt.InferenceSession(onx.SerializeToString())
    for texts in (TEXTS, TEXTS[:2]):
        (got,) = sess.run(None, {"X": np.array(texts).reshape(-1, 1)})
        assert_same(got, model.transform(texts).toarray())


def test_texts_are_classified():
    """The newsgroups tutorial in small: words counted and weighed, then a linear model."""
    from skl2onnx.common.data_types import StringTensorType

    texts = np.array([f"{a} {b}" for a in ("good", "bad") for b in ("day", "cat", "dog", "food")])
    words = feature_extraction.text.TfidfVectorizer()
    model = pipeline.make_pipeline(words, LOGISTIC).fit(texts, ["+"] * 4 + ["-"] * 4)
    kind = [("X", StringTensorType([None, 1]))]
    options = {id(model[0]): {"tokenexp": "[a-zA-Z0-9_]{2,}"}}
    onx = to_onnx(model, initial_types=kind, options=options, target_opset=OPSETS)
    label, rows = rt.InferenceSession(onx.SerializeToString()).run(None, {"X": texts[:, None]})
    assert_same(label, model.predict(texts))
    assert_same([list(row.values()) for row in rows], model.predict_proba(texts))


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_other_element_types(dtype):
    data = numbers()
    x = (data.x * 10).astype(dtype)
    model = fitted(linear_model.LinearRegression(), Data(x, data.y, x))
    sess = session(model, Data(x, data.y, x))
    assert_same(sess.run(None, {"X": x})[0], model.predict(x).reshape(-1, 1))
