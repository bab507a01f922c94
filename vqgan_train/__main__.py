"""`python -m vqgan_train` trains."""

from vqgan_train.train import main

if __name__ == "__main__":
    main()
