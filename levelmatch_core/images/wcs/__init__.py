"""Where pixels lie on the sky, and how large they are there."""
