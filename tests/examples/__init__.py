"""A method, a stage and a graph from outside the package, as a user would write them."""
