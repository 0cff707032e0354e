import numpy as np
import pytest
import torch
from torch import nn

from medkd.device.engine import OnnxRuntime
from medkd.errors import DataError
from medkd.export.onnx import export_onnx, verify_onnx
from medkd.models.cost import macs, parameters
from medkd.models.external import Reordered, portable_graph
from medkd.models.graph import OnnxNetwork
from medkd.models.zoo import build_model
from medkd.options import NamedOptions
from medkd.types import Activation, Task

SHAPE = (1, 16, 16)
SECRET = "DOE^JANE"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model(
        NamedOptions(name="dynunet", filters=[4, 8, 8], norm="batch"),
        task=Task.SEGMENTATION,
        in_channels=1,
        classes=3,
        spatial_dims=2,
    ).eval()


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "logits.onnx"
    export_onnx(network, path, shape=SHAPE)
    return path


@pytest.fixture(scope="module")
def of_probabilities(network, path):
    export_onnx(nn.Sequential(network, nn.Softmax(1)), path.parent / "p.onnx", shape=SHAPE)
    return path.parent / "p.onnx"


@pytest.fixture
def image():
    return torch.randn(2, *SHAPE)


def altered(path, change):
    import onnx

    model = onnx.load(path)
    change(model)
    onnx.save(model, path.parent / "altered.onnx")
    return path.parent / "altered.onnx"


def test_probabilities_become_log_probabilities(of_probabilities, network, image):
    expected = network(image).log_softmax(1)
    said = OnnxNetwork(of_probabilities)(image)
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-3)


def test_another_window_is_refused_with_its_shape(path):
    with pytest.raises(DataError, match=r"takes images of .*, not \[1, 1, 24, 24\]"):
        OnnxNetwork(path)(torch.zeros(1, 1, 24, 24))


def test_what_is_no_graph_is_refused(tmp_path):
    (tmp_path / "no.onnx").write_text("no")
    with pytest.raises(DataError, match="ONNX Runtime cannot load it"):
        OnnxNetwork(tmp_path / "no.onnx")


def test_it_costs_what_the_network_costs(path, network):
    brought = OnnxNetwork(path)
    # batch norms fold into the convolutions before them: a bias a channel instead of two values
    assert parameters(brought) == pytest.approx(parameters(network), rel=0.05)
    assert macs(brought, (1, *SHAPE)) == macs(network, (1, *SHAPE))


def fix_the_batch(model):
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_value = 1


@pytest.mark.parametrize("sorting", [None, [[0, 0, 1], [1, 0, 0], [0, 1, 0]]])
@pytest.mark.parametrize("kind", ["logits", "of probabilities", "an image at a time"])
def test_its_copy_answers_like_it_for_any_number_of_windows(
    path, of_probabilities, tmp_path, kind, sorting
):
    file = of_probabilities if kind == "of probabilities" else path
    brought = OnnxNetwork(altered(path, fix_the_batch) if kind == "an image at a time" else file)
    if sorting:
        brought = Reordered(brought, np.array(sorting, np.float32))
    export_onnx(brought, tmp_path / "copy.onnx", shape=SHAPE)
    assert verify_onnx(brought, tmp_path / "copy.onnx", shape=SHAPE) < 1e-5
    assert OnnxRuntime(tmp_path / "copy.onnx")(np.zeros((5, *SHAPE), np.float32)).shape[0] == 5


@pytest.mark.parametrize("sorting", [None, [[0, 0, 1], [1, 0, 0]]])
def test_the_sigmoid_of_structures_that_may_overlap_is_taken_off(network, tmp_path, sorting):
    export_onnx(nn.Sequential(network, nn.Sigmoid()), tmp_path / "s.onnx", shape=SHAPE)
    brought = OnnxNetwork(tmp_path / "s.onnx", Activation.SIGMOID)
    if sorting:
        brought = Reordered(brought, np.array(sorting, np.float32), Activation.SIGMOID)
    export_onnx(brought, tmp_path / "copy.onnx", shape=SHAPE)
    assert verify_onnx(brought, tmp_path / "copy.onnx", shape=SHAPE) < 1e-4


def test_classes_of_images_are_sorted_too(tmp_path):
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    export_onnx(classifier, tmp_path / "classes.onnx", shape=SHAPE)
    matrix = np.eye(3, dtype=np.float32)[[2, 0, 1]]
    brought = Reordered(OnnxNetwork(tmp_path / "classes.onnx"), matrix)
    export_onnx(brought, tmp_path / "copy.onnx", shape=SHAPE)
    assert verify_onnx(brought, tmp_path / "copy.onnx", shape=SHAPE) < 1e-5
    assert macs(brought, (1, *SHAPE)) == 256 * 3


def test_its_copy_says_nothing_of_whoever_made_it(path, tmp_path):
    def sign(model):
        model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = SECRET
        model.producer_name = model.graph.name = SECRET
        model.metadata_props.add(key="patient", value=SECRET)

    export_onnx(OnnxNetwork(altered(path, sign)), tmp_path / "copy.onnx", shape=SHAPE)
    assert SECRET.encode() in (path.parent / "altered.onnx").read_bytes()
    assert SECRET.encode() not in (tmp_path / "copy.onnx").read_bytes()


def test_a_graph_that_takes_one_image_alone_has_no_copy(tmp_path):
    import onnx

    make = onnx.helper
    nodes = [
        make.make_node("Reshape", ["image", "shape"], ["one"]),
        make.make_node("Concat", ["one"] * 3, ["logits"], axis=1),
    ]
    sides = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 16, 16])
        for name, channels in (("image", 1), ("logits", 3))
    ]
    shape = onnx.numpy_helper.from_array(np.array([1, *SHAPE]), "shape")
    graph = make.make_graph(nodes, "network", sides[:1], sides[1:], [shape])
    versions = {"opset_imports": [make.make_opsetid("", 20)], "ir_version": 10}
    onnx.save(make.make_model(graph, **versions), tmp_path / "one.onnx")
    brought = OnnxNetwork(tmp_path / "one.onnx")
    assert brought(torch.ones(2, *SHAPE)).shape == (2, 3, 16, 16)
    assert portable_graph(brought, SHAPE) is None


def test_nor_has_one_of_an_old_version(path):
    def age(model):
        model.opset_import[0].version = 12

    file = altered(path, age)
    try:
        brought = OnnxNetwork(file)
    except DataError:
        pytest.skip("ONNX Runtime itself does not read it")
    assert portable_graph(brought, SHAPE) is None


def test_a_torch_network_is_no_graph(network):
    assert portable_graph(network, SHAPE) is None
