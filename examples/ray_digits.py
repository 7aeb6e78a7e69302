"""One training loop, on processes of this machine and then on Ray: only the cluster differs.

``python examples/ray_digits.py`` starts a Ray of its own on this machine and ends it again. On a machine that belongs
to a running Ray cluster, ``--address auto`` joins that one. Both clusters give the same parameters, up to rounding; if
they do not, this ends with an error.
"""

import argparse
import sys

import torch
from torch import nn

import gradcode
from gradcode import catalog, codes, schemes
from gradcode.protocol import Cluster

WORKERS = 4


def train(cluster: Cluster) -> torch.Tensor:
    """The final parameters, in one vector."""
    torch.manual_seed(0)
    data = catalog.DATASETS["digits"]()
    model = catalog.mlp((1, 8, 8), outputs=10)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # Adam would magnify rounding
    evaluate = catalog.Evaluation(data.test, loss_fn)

    scheme = schemes.coded(codes.fractional_repetition(WORKERS, stragglers=1))
    with gradcode.Session(model, loss_fn, data.train, 120, scheme, cluster, seed=0) as session:
        for epoch in range(5):
            for step in session.epoch():
                loss = step.backward()
                optimizer.step()
                optimizer.zero_grad()
            model.eval()
            accuracy = evaluate(model)["accuracy"]
            model.train()
            print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {accuracy:.1%}")
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description="The same training on local processes and on Ray.")
    parser.add_argument("--address", help='"auto" or "host:port" of a Ray cluster (default: start a Ray here)')
    address = parser.parse_args().address

    print("local processes")
    local = train(gradcode.LocalCluster(WORKERS))
    print("Ray")
    on_ray = train(gradcode.RayCluster(WORKERS, address=address))

    difference = float((on_ray - local).norm() / local.norm())
    print(f"relative difference of the final parameters: {difference:.1e}")
    if not difference < 1e-5:
        sys.exit("error: the two clusters should give the same parameters, to a relative difference below 1e-5")


# Local workers import this file, so what runs must stand below this line.
if __name__ == "__main__":
    main()
