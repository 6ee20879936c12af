"""The networks of the two papers; convnext.py is the file to read beside them."""
