"""Static files under names with their hash, in one folder for all releases: a page of the release before still finds its own."""

from django.conf import settings
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.files.storage import FileSystemStorage


class ReleaseStaticFiles(ManifestStaticFilesStorage):
    """Which names are its own, each release keeps in its folder, in `staticfiles.json`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, manifest_storage=FileSystemStorage(location=settings.BASE_DIR), **kwargs)
