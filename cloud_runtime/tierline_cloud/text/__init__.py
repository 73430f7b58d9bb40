"""Product search by text: a bi-encoder retrieves, late interaction over its tokens orders."""
