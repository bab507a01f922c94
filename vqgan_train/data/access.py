"""What a source wants before it gives anything: the libraries' own places for it."""

from vqgan_train.data.shards import PIPE

NEEDS = {
    "s3": "s3:// needs pip install 'vqgan_train[s3]' and credentials: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (AWS_PROFILE), or the machine's role. Another "
    "server than Amazon's: AWS_ENDPOINT_URL. A public bucket: FSSPEC_S3_ANON=true.",
    "gs": "gs:// needs pip install 'vqgan_train[gcs]' and credentials: "
    "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's "
    "account. A public bucket: FSSPEC_GS_TOKEN=anon.",
    "hf": "hf:// needs a token that may read the repository: HF_TOKEN or `hf auth login`.",
}
"""By protocol."""

OTHERS = "Check the address, and the credentials and the library that fsspec wants for it."


def needs(address: str) -> str:
    """What to do where a source refuses."""
    if address.startswith(PIPE):
        return "Check the command."
    return NEEDS.get(address.partition("://")[0], OTHERS)
