"""Where the images come from (CIFAR, digits, a folder of one's own) and how they are split."""
