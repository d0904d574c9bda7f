"""One HTML file that classifies images in a browser, without a network."""
