import torch

# The tests' tensors are small: a second thread costs more in waiting than it saves in work.
torch.set_num_threads(1)
