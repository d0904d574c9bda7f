"""A trained model that predicts, the page of its predictions, what may be promised of them."""
