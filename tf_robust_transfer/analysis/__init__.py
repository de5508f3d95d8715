"""What a network is like, in numbers: input gradients, loss landscapes, the terms of MixACM's
theorems. Nothing here draws.
"""
