"""An ordinary PyTorch loop with gradient coding: only the construction of the session differs.

Eight local workers, two of which are slow for good. The gradient is exact whichever one worker is late.
"""

import torch
from torch import nn

import gradcode
from gradcode import catalog, codes, delays, schemes


def main() -> None:
    torch.manual_seed(0)
    data = catalog.DATASETS["digits"]()  # (train, test), any map-style datasets
    model = catalog.cnn((1, 8, 8), outputs=10)  # any nn.Module
    loss_fn = nn.CrossEntropyLoss()  # any mean over the samples
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    evaluate = catalog.Evaluation(data.test, loss_fn)

    scheme = schemes.coded(codes.fractional_repetition(workers=8, stragglers=1))
    # Leave `delays` out for real work: these are injected, so that there is something to straggle.
    slow = delays.slow(delays.Pareto(shape=2.5, scale=0.02), {2: 6.0, 5: 8.0})
    cluster = gradcode.LocalCluster(workers=8, delays=slow)

    with gradcode.Session(model, loss_fn, data.train, 240, scheme, cluster, seed=0) as session:
        for epoch in range(8):
            for step in session.epoch():
                loss = step.backward()  # in place of loss.backward(): fills every p.grad
                optimizer.step()
                optimizer.zero_grad()
            model.eval()
            accuracy = evaluate(model)["accuracy"]
            model.train()
            print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {accuracy:.1%}")


# Workers import this file, so what runs must stand below this line.
if __name__ == "__main__":
    main()
