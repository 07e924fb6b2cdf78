"""A training loop; called by the job with its context."""

import torch
from torch.nn import functional

from digits_net.networks import build


def train(context):
    """Trains and returns the network."""
    settings, data = context.hyperparameters, context.dataset
    epochs = settings["epochs"]
    network = build(data.shape, width=settings["width"]).to(context.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"])
    done = step = 0
    if (state := context.load_checkpoint()) is not None:  # an earlier attempt was interrupted
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done, step = state["epochs"], state["step"]
    for epoch in range(done + 1, epochs + 1):
        network.train()
        total = 0.0
        for rows in torch.randperm(len(data.train)).split(settings["batch_size"]):
            (images,), labels = data.train.batch(rows)
            loss = functional.cross_entropy(
                network(images.to(context.device)), labels.to(context.device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            step += 1
        context.report(
            step, epoch, {"train_loss": total / len(data.train)}, epochs=epochs, epoch_end=True
        )
        context.save_checkpoint(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epochs": epoch,
                "step": step,
            }
        )
    return network
