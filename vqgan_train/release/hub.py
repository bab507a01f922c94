"""Upload of a release to the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from vqgan_train.system.errors import UserError


def require_login(repository: str) -> None:
    """Require a Hugging Face token that the Hub accepts, before a release is written.

    Args:
        repository: USER/REPO, for the message.

    Raises:
        UserError: no token is configured, or the Hub rejects it or is unreachable.
    """
    if get_token() is None:
        raise UserError(
            f"push_to_hub={repository} needs a Hugging Face token, and none is configured. Run "
            "`hf auth login` or set HF_TOKEN. Nothing was written."
        )
    try:
        HfApi().whoami()
    # The client raises many types: for no network, an expired token, a server that is down.
    except Exception as error:
        raise UserError(
            f"push_to_hub={repository}: checking the Hugging Face token failed ({error}). Run `hf "
            "auth login`, or check HF_TOKEN and the network. Nothing was written."
        ) from error


def upload(repository: str, folder: Path, files: Sequence[str], *, private: bool) -> str:
    """Upload files to a model repository as one commit.

    Args:
        repository: USER/REPO, created if it does not exist.
        folder: folder of the release.
        files: names in `folder` of the files to upload; other files there are not uploaded.
        private: visibility of a new repository; an existing one keeps its visibility.

    Returns:
        The web address of the repository.

    Raises:
        UserError: the upload failed.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        # upload_folder would split large uploads into several commits, so that the card would
        # be public before its weights.
        api.create_commit(
            repository,
            [CommitOperationAdd(name, folder / name) for name in files],
            commit_message="Release by vqgan_train",
        )
    except Exception as error:
        reason = f"{error} {error.__cause__ or ''}".strip()
        raise UserError(
            f"push_to_hub={repository}: the upload failed: {reason}\nThe release is in {folder}. "
            "Run the same command again to retry the upload; the files that are already written "
            "stay."
        ) from error
    return f"{api.endpoint}/{repository}"
