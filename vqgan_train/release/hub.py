"""Upload of a release to the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from vqgan_train.system.errors import UserError


class Hub:
    """A model repository on the Hugging Face Hub, created by the first upload.

    Creating the object checks the token, so that a missing token is reported before the release
    is written.

    Args:
        repository: USER/REPO.
        private: visibility of a new repository; an existing one keeps its visibility.

    Raises:
        UserError: no token is configured, or the Hub rejects it or is unreachable.
    """

    def __init__(self, repository: str, *, private: bool) -> None:
        self.repository = repository
        self.private = private
        self._api = HfApi()
        if get_token() is None:
            raise UserError(
                f"push_to_hub={repository} needs a Hugging Face token, and none is configured. Run "
                "`hf auth login` or set HF_TOKEN. Nothing was written."
            )
        try:
            self._api.whoami()
        # The client raises many types: for no network, an expired token, a server that is down.
        except Exception as error:
            raise UserError(
                f"push_to_hub={repository}: the Hub did not accept the token ({error}). Run `hf "
                "auth login`, or check HF_TOKEN and the network. Nothing was written."
            ) from error

    def upload(self, folder: Path, files: Sequence[str]) -> str:
        """Upload files as one commit.

        Args:
            folder: folder of the release.
            files: names in `folder` of the files to upload; other files there are not uploaded.

        Returns:
            The web address of the repository.

        Raises:
            UserError: the upload failed.
        """
        try:
            self._api.create_repo(self.repository, private=self.private, exist_ok=True)
            # upload_folder would split large uploads into several commits, so that the card would
            # be public before its weights.
            self._api.create_commit(
                self.repository,
                [CommitOperationAdd(name, folder / name) for name in files],
                commit_message="Release by vqgan_train",
            )
        except Exception as error:
            reason = f"{error} {error.__cause__ or ''}".strip()
            raise UserError(
                f"push_to_hub={self.repository}: the upload failed: {reason}\nThe release is in "
                f"{folder}. Run the same command again to retry the upload; the files that are "
                "already written stay."
            ) from error
        return f"{self._api.endpoint}/{self.repository}"
