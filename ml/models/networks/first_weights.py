"""Draws the first weights of a network.

They come from a generator of their own, so that random numbers drawn by other threads do not change them.
"""

import math

import torch
from torch import Generator, nn

from ml.serving.features import FIRST_CODE
from ml.serving.kinds.network import TabularNetwork


@torch.no_grad()
def draw_first_weights(network: TabularNetwork, generator: Generator) -> None:
    """Draws all weights in place.

    Those of the first layer are uniform between plus and minus 1 / sqrt(number of columns). Those of later layers are
    drawn as torch's own `nn.Linear` draws them.
    """
    bound = (network.n_numbers + len(network.categories)) ** -0.5
    network.bias.zero_()
    network.numbers.uniform_(-bound, bound, generator=generator)
    embeddings = [embedding for embedding in network.categories if isinstance(embedding, nn.Embedding)]
    for embedding in embeddings:
        embedding.weight.normal_(generator=generator)  # overwritten below; drawn to leave later weights as they are
    for embedding in embeddings:
        embedding.weight.uniform_(-bound, bound, generator=generator)
        embedding.weight[:FIRST_CODE] = 0  # a value that was not in the train rows has no effect
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = layer.in_features**-0.5
            layer.bias.uniform_(-bound, bound, generator=generator)
