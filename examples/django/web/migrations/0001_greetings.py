"""The table of greetings, with the first one."""

from django.db import migrations, models


def add_greeting(apps, schema_editor):
    apps.get_model("web", "Greeting").objects.create(text="Hello from shop")


class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            "Greeting",
            [("id", models.BigAutoField(primary_key=True, serialize=False)), ("text", models.CharField(max_length=200))],
        ),
        migrations.RunPython(add_greeting, migrations.RunPython.noop),
    ]
