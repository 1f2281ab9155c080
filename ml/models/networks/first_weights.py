"""A network's first weights, drawn by a generator of their own: what other threads draw meanwhile changes none."""

import math

import torch
from torch import Generator, nn

from ml.serving.features import FIRST_CODE
from ml.serving.kinds.network import TabularNetwork


@torch.no_grad()
def draw_first_weights(network: TabularNetwork, generator: Generator) -> None:
    """The first layer is uniform within one over the root of its columns, later ones as torch's own `nn.Linear` is."""
    bound = (network.n_numbers + len(network.categories)) ** -0.5
    network.bias.zero_()
    network.numbers.uniform_(-bound, bound, generator=generator)
    embeddings = [embedding for embedding in network.categories if isinstance(embedding, nn.Embedding)]
    for embedding in embeddings:
        embedding.weight.normal_(generator=generator)  # what torch draws itself: later weights stay those of old fits
    for embedding in embeddings:
        embedding.weight.uniform_(-bound, bound, generator=generator)
        embedding.weight[:FIRST_CODE] = 0  # an unknown value that training never showed stays without effect
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = layer.in_features**-0.5
            layer.bias.uniform_(-bound, bound, generator=generator)
