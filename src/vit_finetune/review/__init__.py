"""What is wrong with the images and labels, found with the features of the model."""
