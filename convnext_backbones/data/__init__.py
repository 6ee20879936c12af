"""What a folder of pictures and labels is: what it holds, what is wrong with it, how it is read."""
