"""Forget sets that are hard to forget: searches, structured sets, and the certificate that they are hard."""
