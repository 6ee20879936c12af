"""Keras: numbers, calls, training and files, on the backend of KERAS_BACKEND; at the end on the others.

What is read from a module of this name is the adapter: a folder called keras on sys.path would be taken
for the library where that is not installed, so the tests of this room lie beside the folders.
"""

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from randomness import random_images, random_state, relative_difference

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
adapter = pytest.importorskip("convnext_backbones.adapters.keras", exc_type=ImportError)

import keras  # noqa: E402
from keras import ops  # noqa: E402
from PIL import Image  # noqa: E402

from convnext_backbones import ConvNeXtClassifier, create_backbone  # noqa: E402
from convnext_backbones.adapters.keras import (  # noqa: E402
    ClassifierOutput,
    KerasConvNeXt,
    KerasConvNeXtClassifier,
    KerasConvNeXtModel,
    ModelOutput,
    load_pretrained,
    torch_state,
)
from convnext_backbones.adapters.keras.layers import Block  # noqa: E402
from convnext_backbones.adapters.keras.weights import torch_twin  # noqa: E402
from convnext_backbones.checkpoints import convert_checkpoint  # noqa: E402
from convnext_backbones.errors import CheckpointError  # noqa: E402

BACKEND = keras.backend.backend()
ROOT = Path(__file__).parent.parent.parent
NESTED = "CONVNEXT_BACKBONES_KERAS_NESTED"  # this file, run by its last test
ARCH = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}
SMALL = {"depths": [1, 1], "dims": [8, 16]}  # to train
ALL = ("stem", "stage1", "stage2", "stage3", "stage4")
CLASSES = 5
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason=f"the backend is {BACKEND}")


@pytest.fixture(autouse=True)
def quietly():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def array(x) -> np.ndarray:
    return ops.convert_to_numpy(x)


def tensor(x) -> torch.Tensor:
    return torch.from_numpy(np.array(array(x)))


def difference(ours, reference: torch.Tensor) -> float:
    return relative_difference(tensor(ours), reference)


def pair(folder: Path, kind, **options):
    """A Keras model and the PyTorch one with the same random weights, through a file of them."""
    model = kind(ARCH, **options)
    twin = torch_twin(model.torch_class, model.options())
    state = random_state(twin)
    twin.load_state_dict(state, assign=True)
    torch.save(state, folder / "weights.pth")
    load_pretrained(model, folder / "weights.pth")
    return model, twin.eval(), folder / "weights.pth"


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def backbones(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    return pair(folder, KerasConvNeXt, version=request.param, out_features=ALL)


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def classifiers(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    options = {"version": request.param, "num_classes": CLASSES, "drop_path_rate": 0.2}
    return pair(folder, KerasConvNeXtClassifier, **options)


@pytest.fixture(scope="module")
def pixels():
    return random_images(2, 3, 64, 96)


def last(x: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) as Keras has it."""
    return x.permute(0, 2, 3, 1).numpy()


# ---- numbers -------------------------------------------------------------------------------------
def test_feature_maps_are_those_of_the_torch_backbone(backbones, pixels):
    model, twin, _ = backbones
    with torch.no_grad():
        reference = twin(pixels)
    maps = model(last(pixels))
    assert len(maps) == 5
    for ours, theirs in zip(maps, reference, strict=True):
        assert difference(ops.transpose(ours, (0, 3, 1, 2)), theirs) < 1e-5
    assert model.channels == twin.channels
    assert model.strides == twin.strides
    assert model.out_features == twin.out_features
    assert model.out_indices == twin.out_indices


def test_logits_and_hidden_states_are_those_of_the_torch_classifier(classifiers, pixels):
    model, twin, _ = classifiers
    with torch.no_grad():
        reference, features = twin(pixels), twin.forward_features(pixels)
    output = model(last(pixels), output_hidden_states=True)
    assert difference(output.logits, reference) < 1e-5
    assert output.loss is None
    for ours, theirs in zip(output.hidden_states, features.hidden_states, strict=True):
        assert difference(ops.transpose(ours, (0, 3, 1, 2)), theirs) < 1e-5


def test_the_model_has_the_fields_of_tfconvnextmodel(classifiers, pixels):
    _, twin, file = classifiers
    model = KerasConvNeXtModel.from_pretrained(file)
    with torch.no_grad():
        features = twin.forward_features(pixels)
    output = model(pixel_values=pixels.numpy())
    assert isinstance(output, ModelOutput)
    assert difference(output.last_hidden_state, features.last_hidden_state) < 1e-5
    assert difference(output.pooler_output, features.pooler_output) < 1e-5
    assert output.hidden_states is None
    assert len(model(pixels.numpy(), output_hidden_states=True).hidden_states) == 5
    assert len(model(pixels.numpy(), return_dict=False)) == 2


@tensorflow_only
def test_gradients_are_those_of_the_torch_classifier(classifiers, pixels):
    import tensorflow

    model, twin, _ = classifiers
    twin = copy.deepcopy(twin)
    labels = torch.tensor([1, 3])
    twin(pixels, labels).loss.backward()
    with tensorflow.GradientTape() as tape:
        loss = ops.mean(model(last(pixels), labels=labels.numpy()).loss)
    theirs = torch_state(model)  # the order of names
    named = adapter.weights._named(model)
    gradients = tape.gradient(loss, [variable.value for _, variable, _ in named])
    axes = [axes for _, _, axes in adapter.weights._named(model)]
    wanted = dict(twin.named_parameters())
    for name, gradient, order in zip(theirs, gradients, axes, strict=True):
        ours = torch.from_numpy(np.ascontiguousarray(np.transpose(gradient.numpy(), order)))
        assert relative_difference(ours, wanted[name].grad) < 1e-4, name


def test_the_loss_follows_from_the_labels(pixels):
    for classes, labels in (
        (5, torch.tensor([4, 0])),
        (5, torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])),
        (1, torch.tensor([0.5, -2.0])),
        (1, torch.tensor([[0.5], [-2.0]])),
    ):
        model = KerasConvNeXtClassifier(ARCH, version=2, num_classes=classes)
        twin = ConvNeXtClassifier(ARCH, version=2, num_classes=classes).eval()
        twin.load_state_dict(torch_state(model))
        output = model(last(pixels), labels=labels.numpy())
        assert isinstance(output, ClassifierOutput)
        assert tuple(output.loss.shape) == (2,)  # of every picture, as the TF classes have it
        with torch.no_grad():
            assert difference(ops.mean(output.loss), twin(pixels, labels).loss) < 1e-5


def test_drop_path_drops_whole_pictures_and_keeps_the_expectation():
    block = Block(
        8, version=2, drop_path_rate=0.5, layer_scale_init_value=None, name="b", dtype=None
    )
    block.build(None)
    x = last(random_images(1, 8, 7, 7)).repeat(64, axis=0)
    branch = array(block(x)) - x
    kept = array(block(x, training=True)) - x
    dropped = np.abs(kept).reshape(64, -1).max(1) < 1e-6
    assert 0 < dropped.sum() < 64
    np.testing.assert_allclose(kept[~dropped], 2 * branch[~dropped], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(array(block(x, training=False)), branch + x)


def test_bfloat16_follows_keras_policies(pixels):
    model = KerasConvNeXtClassifier(ARCH, version=2, num_classes=3)
    half = KerasConvNeXtClassifier(ARCH, version=2, num_classes=3, dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    output = half(last(pixels))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert difference(ops.cast(output, "float32"), tensor(model(last(pixels)))) < 0.03


# ---- calls ---------------------------------------------------------------------------------------
def test_pictures_come_in_the_forms_of_the_tf_classes(classifiers, pixels):
    model, _, _ = classifiers
    labels = np.array([0, 2])
    reference = array(model(pixels.numpy()))
    for given in (pixels.numpy(), [pixels.numpy()], {"pixel_values": pixels.numpy()}, last(pixels)):
        np.testing.assert_allclose(array(model(given)), reference, rtol=1e-5, atol=1e-6)
    by_keyword = model(pixel_values=pixels.numpy(), labels=labels, training=False)
    in_a_list = model([pixels.numpy(), True, True, labels])
    in_a_dict = model({"pixel_values": pixels.numpy(), "labels": labels})
    for output in (by_keyword, in_a_list, in_a_dict):
        np.testing.assert_array_equal(array(output.loss), array(by_keyword.loss))
        np.testing.assert_array_equal(array(output.logits), reference)
    assert len(in_a_list.hidden_states) == 5
    _, logits = model(pixels.numpy(), labels=labels, return_dict=False)
    np.testing.assert_array_equal(array(logits), reference)


def test_maps_lie_as_the_pictures_do(backbones, pixels):
    model, _, _ = backbones
    first, behind = model(pixels.numpy()), model(last(pixels))
    assert tuple(first[2].shape) == (2, 16, 8, 12)
    assert tuple(behind[2].shape) == (2, 8, 12, 16)
    for a, b in zip(first, behind, strict=True):
        np.testing.assert_array_equal(array(a), array(ops.transpose(b, (0, 3, 1, 2))))


def test_channels_first_runs_on_every_backend_under_keras_own_setting(pixels):
    keras.config.set_image_data_format("channels_first")
    try:
        model = KerasConvNeXtClassifier(ARCH, version=1, num_classes=2)
        assert tuple(model(pixels.numpy()).shape) == (2, 2)
        assert tuple(model(last(pixels)).shape) == (2, 2)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_a_model_is_a_part_of_functional_models(backbones):
    model, _, _ = backbones
    pictures = keras.Input((64, 64, 3))
    whole = keras.Model(pictures, model(pictures))
    assert [x.shape[1:] for x in whole.outputs][-1] == (2, 2, 32)
    pictures = keras.Input((3, None, None))
    assert keras.Model(pictures, model(pictures)).outputs[-1].shape == (None, 32, None, None)


def test_symbolic_shapes_are_those_of_what_comes(backbones, classifiers, pixels):
    classifier, labels = classifiers[0], keras.Input((), dtype="int32")
    calls = [
        (backbones[0], {}),
        (backbones[0], {"output_hidden_states": True}),
        (classifier, {}),
        (classifier, {"output_hidden_states": True, "labels": labels}),
        (classifier, {"return_dict": False, "labels": labels}),
        (KerasConvNeXtModel(ARCH, version=1), {"output_hidden_states": True}),
    ]
    for model, options in calls:
        symbolic = keras.tree.flatten(model(keras.Input(pixels.shape[1:]), **options))
        real = {**options, "labels": np.array([0, 1])} if "labels" in options else options
        computed = keras.tree.flatten(model(pixels.numpy(), **real))
        for expected, value in zip(symbolic, computed, strict=True):
            if value is not None:
                assert tuple(expected.shape[1:]) == tuple(value.shape[1:])
                assert expected.dtype == keras.backend.standardize_dtype(value.dtype)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m(), "no pictures were given"),
        (lambda m, x: m(x, label=1), "takes no 'label'; did you mean 'labels'"),
        (lambda m, x: m(x, None, None, None, None, None), "takes 5 arguments, pixel_values"),
        (lambda m, x: m(x[0]), r"add the first axis: pictures\[None\]"),
        (lambda m, x: m(x[:, :2]), "must have shape .N, H, W, 3. or .N, 3, H, W., got"),
        (lambda m, x: m(x[:, :, :20]), "pictures are 20x96; this network needs at least 32x32"),
        (lambda m, x: m((x * 255).astype(np.uint8)), "pictures are uint8; give normalised"),
        (lambda m, x: m({"pixels": x}), "takes no 'pixels'; did you mean 'pixel_values'"),
        (lambda m, x: m({"pixel_values": x, "labels": np.ones(2)}, labels=np.ones(2)), "labels came twice"),
        (lambda m, x: m([x] * 6), r"5? ?.*has 6 entries; pictures are one array"),
        (lambda m, x: m([x, x]), "output_hidden_states is True or False, got a"),
        (lambda m, x: m(x, labels=np.ones((2, 3), np.int32)), r"class numbers have shape \(N,\)"),
        (lambda m, x: m(x, labels=np.ones(2, np.float32)), r"have shape \(N, 5\), got \(2,\)"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_answered_with_a_sentence(classifiers, pixels, call, words):
    with pytest.raises(ValueError, match=words):
        call(classifiers[0], pixels.numpy())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KerasConvNeXt("convnext_tinny"), "did you mean 'convnext_tiny'"),
        (lambda: KerasConvNeXt(name="backbone"), "the network was not named"),
        (lambda: KerasConvNeXt("convnextv2_atto", version=1), "is of version 2; leave out version=1"),
        (lambda: KerasConvNeXt(ARCH), "need version=1 or version=2"),
        (lambda: KerasConvNeXt("convnext_atto", out_indices=(4,)), r"out_indices holds 4; valid: -4\.\.3"),
        (lambda: KerasConvNeXt("convnext_atto", out_features=("stage5",)), "did you mean 'stage"),
        (lambda: KerasConvNeXt("convnext_atto", out_features=("stage1",), out_indices=(1,)), "disagree"),
        (lambda: KerasConvNeXt("convnext_atto", out_indices=(1, 0)), "not in network order"),
        (lambda: KerasConvNeXt("convnext_atto", include_top=False), "no option 'include_top'"),
        (lambda: KerasConvNeXt("convnext_atto", num_classes=3), "a backbone has no head"),
        (lambda: KerasConvNeXt("convnext_atto", drop_path_rate=2), "between 0 and 1, got 2"),
        (lambda: KerasConvNeXtClassifier("convnext_atto", num_classes=-1), "num_classes must be"),
        (lambda: KerasConvNeXtClassifier(ARCH, version=1, num_classes=2, class_names=["a"]), "class_names are 1 names"),
        (lambda: KerasConvNeXtModel("convnext_atto", norm_eps=0), "norm_eps must be a positive number"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_answered_with_a_sentence(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


# ---- training and files --------------------------------------------------------------------------
def test_fit_takes_a_step_and_saved_models_are_the_same(tmp_path, pixels):
    model = KerasConvNeXtClassifier(
        SMALL, version=2, num_classes=3, drop_path_rate=0.3, class_names=["a", "b", "c"]
    )
    before = torch_state(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics=["accuracy"], jit_compile=False)
    history = model.fit(last(pixels), np.array([0, 2]), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = torch_state(model)
    still = [name for name, value in after.items() if torch.equal(value, before[name])]
    assert all("grn" in name or "stages.1.0" in name for name in still), still  # dropped, or zero
    assert model.predict(pixels.numpy(), verbose=0).shape == (2, 3)

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(last(pixels))), array(model(last(pixels))))
    assert again.class_names == ("a", "b", "c")
    assert again.get_config() == model.get_config()

    network = ConvNeXtClassifier(SMALL, version=2, num_classes=3).eval()
    network.load_state_dict(after)  # back to PyTorch, with nothing missing
    with torch.no_grad():
        assert difference(model(last(pixels)), network(pixels)) < 1e-5


def test_fit_takes_labels_in_a_dict_without_a_loss(pixels):
    model = KerasConvNeXtClassifier(SMALL, version=1, num_classes=3)
    model.compile("adam", jit_compile=False)
    inputs = {"pixel_values": pixels.numpy(), "labels": np.array([0, 2])}
    before = array(ops.mean(model(inputs).loss))
    history = model.fit(inputs, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], before, rtol=1e-4)


def test_a_backbone_is_saved_with_its_selection(backbones, tmp_path, pixels):
    model, _, _ = backbones
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(again(last(pixels)), model(last(pixels)), strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))
    assert again.out_features == ALL


@tensorflow_only
def test_a_saved_model_gives_what_the_model_gives_in_a_graph(classifiers, tmp_path, pixels):
    import tensorflow

    model, _, _ = classifiers
    model.export(tmp_path / "saved", verbose=False)
    again = tensorflow.saved_model.load(str(tmp_path / "saved"))
    for size in (64, 96):  # of any size
        x = last(pixels[:, :, :, :size])
        graph = tensorflow.function(lambda x: model(x, training=False))(tensorflow.constant(x))
        np.testing.assert_array_equal(again.serve(x).numpy(), graph.numpy())
        assert difference(again.serve(x), tensor(model(x))) < 1e-5


@tensorflow_only
def test_tflite_gives_the_classifiers_logits(classifiers, tmp_path, pixels):
    import tensorflow

    model, _, _ = classifiers
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's interpreter moves to a package of its own
        runner = tensorflow.lite.Interpreter(str(tmp_path / "model.tflite"))
    x = last(pixels)
    place = runner.get_input_details()[0]["index"]
    runner.resize_tensor_input(place, x.shape)
    runner.allocate_tensors()
    runner.set_tensor(place, x)
    runner.invoke()
    logits = runner.get_tensor(runner.get_output_details()[0]["index"])
    assert relative_difference(torch.from_numpy(logits), tensor(model(x))) < 1e-5


@tensorflow_only
def test_triton_stays_out_of_a_process_that_imported_tensorflow_first():
    pytest.importorskip("triton")
    code = "import tensorflow, convnext_backbones.adapters.keras, torchvision.ops, torch._dynamo; print('alive')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "alive\n", ran.stderr[-2000:]
    assert "TensorFlow was imported before Triton" in ran.stderr


# ---- weights -------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["timm", "huggingface", "mmpretrain", "torchvision"])
def test_checkpoints_of_every_layout_are_loaded(classifiers, tmp_path, pixels, layout):
    model, _, file = classifiers
    if layout == "torchvision" and model.version == 2:
        pytest.skip("torchvision has no V2")
    place = tmp_path / ("folder" if layout == "huggingface" else "weights.pth")
    convert_checkpoint(file, place, to=layout)
    again = KerasConvNeXtClassifier.from_pretrained(place)
    assert again.version == model.version
    for name, value in torch_state(again).items():
        assert torch.equal(value, torch_state(model)[name]), name


def test_weights_are_loaded_whole_or_refused(backbones, classifiers, tmp_path):
    model, _, file = backbones
    other = KerasConvNeXt({**ARCH, "dims": [8, 16, 24, 40]}, version=model.version)
    before = torch_state(other)
    with pytest.raises(CheckpointError, match="Nothing was loaded"):
        load_pretrained(other, file)
    broken = torch.load(file, weights_only=True)
    del broken["stages.1.1.pwconv1.weight"]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match="1 parameter would stay random"):
        KerasConvNeXt(ARCH, version=model.version, pretrained=tmp_path / "broken.pth")
    assert all(torch.equal(value, before[name]) for name, value in torch_state(other).items())
    with pytest.raises(ValueError, match=r"has no norm and no head, which would stay as initial"):
        KerasConvNeXtClassifier.from_pretrained(file)
    with pytest.raises(CheckpointError, match="convnext_atto"):
        KerasConvNeXt("convnext_atto", pretrained=file)


def test_a_torch_backbone_takes_keras_weights(tmp_path):
    model = KerasConvNeXt("convnextv2_atto", out_indices=(0, 3))
    torch.save(torch_state(model), tmp_path / "weights.pth")
    options = {"out_indices": (0, 3), "pretrained": tmp_path / "weights.pth"}
    network = create_backbone("convnextv2_atto", **options)
    assert all(torch.equal(v, torch_state(model)[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("version", [1, 2])
def test_the_snippets_of_the_tf_classes_pages_run(tmp_path, version):
    transformers = pytest.importorskip("transformers")
    name = "ConvNextV2" if version == 2 else "ConvNext"
    config = getattr(transformers, f"{name}Config")(
        depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], num_labels=4,
        id2label={0: "cat", 1: "dog", 2: "hen", 3: "cow"}, layer_scale_init_value=0.5,
    )  # fmt: skip
    theirs = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    theirs.save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    image = Image.fromarray((random_images(80, 90, 3).numpy() * 60 + 120).clip(0, 255).astype("u1"))

    image_processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    model = KerasConvNeXtModel.from_pretrained(tmp_path)
    inputs = image_processor(images=image, return_tensors="np")
    outputs = model(**inputs)
    last_hidden_states = outputs.last_hidden_state
    assert list(last_hidden_states.shape) == [1, 32, 2, 2]

    model = KerasConvNeXtClassifier.from_pretrained(tmp_path)
    outputs = model(**inputs, return_dict=True)
    logits = outputs.logits
    predicted_class_idx = ops.argmax(logits, axis=-1)[0]

    with torch.no_grad():
        reference = theirs(pixel_values=torch.from_numpy(inputs["pixel_values"])).logits
    assert difference(logits, reference) < 1e-5
    assert model.class_names[int(predicted_class_idx)] == config.id2label[int(reference.argmax())]


def test_a_folder_with_another_activation_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], hidden_act="relu"
    )
    transformers.ConvNextModel(config).save_pretrained(tmp_path)
    for load in (
        lambda: KerasConvNeXt.from_pretrained(tmp_path),
        lambda: KerasConvNeXt(
            {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, version=1, pretrained=tmp_path
        ),
    ):
        with pytest.raises(CheckpointError, match="hidden_act='relu'"):
            load()


# ---- the other backends --------------------------------------------------------------------------
@pytest.mark.skipif(BACKEND != "torch", reason=f"the backend is {BACKEND}")
def test_what_keras_on_torch_cannot_export_is_answered_with_a_sentence(classifiers, tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow, and export it there"):
        classifiers[0].export(tmp_path / "saved")


@pytest.mark.skipif(NESTED not in os.environ, reason="a part of the next one")
def test_a_model_saved_on_another_backend_is_the_same(pixels):
    folder = Path(os.environ[NESTED])
    model = keras.models.load_model(folder / "model.keras")
    logits = torch.from_numpy(np.load(folder / "logits.npy"))
    assert difference(model(last(pixels)), logits) < 1e-5


@pytest.mark.skipif(NESTED in os.environ, reason="runs this file once more")
@pytest.mark.parametrize("other", sorted({"tensorflow", "jax", "torch"} - {BACKEND}))
def test_all_of_it_holds_on(other, tmp_path, pixels):
    pytest.importorskip(other)
    model = KerasConvNeXtClassifier(ARCH, version=2, num_classes=CLASSES)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "logits.npy", array(model(last(pixels))))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         f"--basetemp={tmp_path / 'nested'}", __file__],
        env=dict(os.environ, KERAS_BACKEND=other, **{NESTED: str(tmp_path)}), cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:]
