"""The sister notebooks' own modules, one folder a notebook."""
