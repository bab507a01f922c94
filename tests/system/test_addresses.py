"""What may be shown of an address or a command has no secret in it, and stays readable."""

import pytest

from vqgan_train.system.addresses import file_name, redact, redact_all


@pytest.mark.parametrize(
    ("address", "name", "text"),
    [
        ("https://host/a/000.tar", "000.tar", "https://host/a/000.tar"),
        ("https://me:secret@host/1.tar?sig=secret", "1.tar", "https://host/1.tar"),
        ("https://me:se?cr@et@host/1.tar?secret", "1.tar", "https://host/1.tar"),
        ("https://host/1.tar?a=b secret", "1.tar", "https://host/1.tar"),
        ("https://host/{0..9}.tar?sig='secret'", "{0..9}.tar", "https://host/{0..9}.tar"),
        ("s3://bucket/x/2.tar", "2.tar", "s3://bucket/x/2.tar"),
        ("hf://user/name@v1/model.ckpt", "shard.tar", "hf://user/name@v1/model.ckpt"),
        ("pipe:curl -H 'Key: secret' https://h/3.tar", "3.tar", "pipe:curl ... 3.tar"),
        ("pipe:TOKEN='a secret' curl https://h/3.tar", "3.tar", "pipe:command ... 3.tar"),
        ("pipe:mycommand 7", "shard.tar", "pipe:mycommand ... shard.tar"),
        ("photos/0?.tar", "shard.tar", "photos/0?.tar"),
        ("/data/$MY_TOKEN/4.tar", "4.tar", "/data/$MY_TOKEN/4.tar"),
        ("/data/secret-of-mine/4.tar", "4.tar", "/data/$MY_TOKEN/4.tar"),
    ],
)
def test_names_show_no_secrets(
    address: str, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret-of-mine")
    assert file_name(address) == name
    assert redact(address) == text
    assert redact(text) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("a=[https://u:s@h/1.tar?s=1,b.tar] c", "a=[https://h/1.tar c"),
        ("with url: /last.ckpt?token=s (Caused by", "with url: /last.ckpt (Caused by"),
        ("data.train_shards=[pipe:curl -H s h/1.tar]", "data.train_shards=[pipe:curl ... 1.tar"),
        ("pipe:curl ... 1.tar is dead: exit code 1", "pipe:curl ... 1.tar is dead: exit code 1"),
        ("Is it right? Yes: a = 1.", "Is it right? Yes: a = 1."),
    ],
)
def test_texts_with_addresses_in_them_lose_their_secrets_only(message: str, text: str) -> None:
    assert redact(message) == text
    assert redact_all({"a": [message, 1, None]}) == {"a": [text, 1, None]}
