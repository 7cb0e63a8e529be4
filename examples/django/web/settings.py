"""The settings. `secret-key`, `database` and `collected` are links of the release to what outlives it."""

from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
RELEASE = (BASE_DIR / "VERSION").read_text().strip()
SECRET_KEY = (BASE_DIR / "secret-key").read_text().strip()
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "shop.example.com"]
INSTALLED_APPS = ["django.contrib.staticfiles", "web"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "web.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "database" / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "collected"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "web.storage.ReleaseStaticFiles"},
}
