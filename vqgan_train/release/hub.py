"""Hugging Face's hub: signed in before anything is written, uploaded to at the end."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from vqgan_train.release.errors import ReleaseError


class Hub:
    """A repository there, which is made on the first upload.

    Args:
        repository: USER/REPO.
        private: whether only its owner sees it, if it is new; one that is there stays as it is.

    Raises:
        ReleaseError: nobody is signed in, or the hub does not know the token.
    """

    def __init__(self, repository: str, *, private: bool) -> None:
        self.repository = repository
        self.private = private
        self._api = HfApi()
        if get_token() is None:
            raise ReleaseError(
                f"push_to_hub={repository} needs a token of the hub, and there is none here. Run "
                "`hf auth login` or set HF_TOKEN. Nothing was written."
            )
        try:
            self._api.whoami()
        # Its errors are of many kinds: no network, an expired token, a server that is down.
        except Exception as error:
            raise ReleaseError(
                f"push_to_hub={repository}: the hub did not take the token ({error}). Run `hf auth "
                "login`, or check HF_TOKEN and the network. Nothing was written."
            ) from error

    def upload(self, folder: Path, files: Sequence[str]) -> str:
        """Upload files of a folder as one commit; what else lies there stays here.

        Returns:
            The address of the repository.

        Raises:
            ReleaseError: the hub refused.
        """
        try:
            self._api.create_repo(self.repository, private=self.private, exist_ok=True)
            # Not upload_folder, which makes several commits of large files: a card would be there
            # before its weights.
            self._api.create_commit(
                self.repository,
                [CommitOperationAdd(name, folder / name) for name in files],
                commit_message="Release by vqgan_train",
            )
        except Exception as error:
            reason = f"{error} {error.__cause__ or ''}".strip()
            raise ReleaseError(
                f"push_to_hub={self.repository} was refused: {reason}\nThe release is in {folder}. "
                "Give the same command again to upload it: what is there stays."
            ) from error
        return f"{self._api.endpoint}/{self.repository}"
