"Small networks and images that several tests of attacks share."
import torch
from torch import nn

from visft_nb.cnn.models import small_cnn


def learned_bars(n, steps):
    "A network that has learned a little to find the dimmed bar among four, with its n images and labels: some samples stand an attack, some fall."
    torch.manual_seed(0)
    x, y = torch.rand(n, 1, 16, 16), torch.arange(n) % 4
    for i in range(4): x[y == i, :, 4*i:4*i + 4] *= .25
    model = small_cnn(4, width=4)
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        opt.zero_grad(); nn.functional.cross_entropy(model(x), y).backward(); opt.step()
    return model.eval(), x, y


class Disturbed(nn.Module):
    "Batch norm, dropout, a frozen layer: everything that an attack can disturb. For images (N, 1, 16, 16)."
    def __init__(self, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*14*14, classes))
        self.net[0].weight.requires_grad_(False)
    def forward(self, x): return self.net(x)
