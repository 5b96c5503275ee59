"""Batches that are on the GPU, all of their tensors, before they are asked for."""

import torch


class CUDAPrefetcher:
    def __init__(self, loader, device):
        self.loader = loader
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def __iter__(self):
        for batch in self.loader:
            with torch.cuda.stream(self.stream):
                moved = [tensor.to(self.device, non_blocking=True) for tensor in batch]
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            yield moved
