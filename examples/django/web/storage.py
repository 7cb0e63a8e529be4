"""Static files under names with their hash, in one folder for all releases: a page of the release before still finds its own."""

import os
import re
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.files.storage import FileSystemStorage

# A name such as `style.0123456789ab.css`, whose content never changes.
HASHED_NAME = re.compile(r"\.[0-9a-f]{12}(\.[^./]*)?$")


class ReleaseStaticFiles(ManifestStaticFilesStorage):
    """Which names are its own, each release keeps in its folder, in `staticfiles.json`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, manifest_storage=FileSystemStorage(location=settings.BASE_DIR), **kwargs)

    def delete(self, name):
        """Keeps the files that the live release shows."""
        if not HASHED_NAME.search(name):
            super().delete(name)

    def _save(self, name, content):
        """Gives a file its name when it is whole: who is killed leaves no half of one, and visitors never get one."""
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with open(part, "wb") as file:
            for chunk in content.chunks():
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
        return name
