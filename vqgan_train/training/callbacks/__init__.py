"""Lightning callbacks: all that happens around the training steps.

A hook names only the arguments that it uses; `*_` takes the rest of those that Lightning passes.
"""
