"""A greeting at /, and at /health the release that this process runs."""

from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.templatetags.static import static
from django.urls import path
from django.utils.html import format_html

from web.models import Greeting


def home(request):
    text = Greeting.objects.latest("id").text
    page = '<!doctype html>\n<link rel="stylesheet" href="{}">\n<p>{}, release {}\n'
    return HttpResponse(format_html(page, static("web/style.css"), text, settings.RELEASE))


def health(request):
    return JsonResponse({"release": settings.RELEASE})


urlpatterns = [path("", home), path("health", health)]
