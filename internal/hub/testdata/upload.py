"""Uploads a folder with the hub's own client: what it is answered has to be what the hub answers."""

import sys

from huggingface_hub import HfApi

api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])
api.create_repo(sys.argv[3], repo_type="dataset", private=True, exist_ok=True)
commit = api.upload_folder(repo_id=sys.argv[3], repo_type="dataset", folder_path=sys.argv[4])
print(commit.oid, sorted(f.path for f in api.list_repo_tree(sys.argv[3], repo_type="dataset", recursive=True) if hasattr(f, "size")))
