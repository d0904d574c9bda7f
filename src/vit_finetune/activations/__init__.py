"""What the frozen blocks compute, once: the pass over the images and the files that it writes."""
