import json

import torch
from monai.bundle import ConfigParser
from monai.networks.nets.basic_unet import BasicUNet

from medkd.models.stock import altered, definition_of, stock

OPTIONS = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "features": [4] * 6}


def test_monai_alone_builds_the_same_network_from_what_is_remembered():
    network = stock(BasicUNet, **OPTIONS)
    definition = json.loads(json.dumps(definition_of(network)))
    again = ConfigParser({"network": definition}).get_parsed_content("network")
    again.load_state_dict(network.state_dict())
    image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(image), network.eval()(image), rtol=0, atol=0)


def test_a_network_that_was_altered_or_built_otherwise_has_no_definition():
    assert definition_of(altered(stock(BasicUNet, **OPTIONS))) is None
    assert definition_of(altered(BasicUNet(**OPTIONS))) is None
