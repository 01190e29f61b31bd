"""An S3 server (moto) on a host of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
from botocore.exceptions import HTTPClientError
from hosts import NETWORK, Host, until

ADDRESS = f"{NETWORK}.8"
PORT = 9000
BUCKET = "bucket"

SETTINGS = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESS}:{PORT}",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""The environment of its clients."""


def start_store(folder: Path) -> Host:
    """The host, with an empty bucket."""
    host = Host("store", ADDRESS, folder)
    host.start()
    host.serve("moto", sys.executable, "-m", "moto.server", "-H", ADDRESS, "-p", str(PORT))
    until(_bucket_made, 240, "the store to answer")
    return host


def _bucket_made() -> bool:
    client = boto3.client(
        "s3",
        endpoint_url=SETTINGS["AWS_ENDPOINT_URL"],
        aws_access_key_id=SETTINGS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SETTINGS["AWS_SECRET_ACCESS_KEY"],
        region_name=SETTINGS["AWS_DEFAULT_REGION"],
    )
    try:
        client.create_bucket(Bucket=BUCKET)
    except HTTPClientError:  # it does not listen yet
        return False
    return True
