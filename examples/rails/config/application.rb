# The settings. `config/master.key`, `log` and `storage` are links of the release to what outlives it.
require_relative "boot"

require "rails"
require "active_record/railtie"
require "action_controller/railtie"
require "sprockets/railtie"

module Web
  RELEASE = File.read(File.expand_path("../VERSION", __dir__)).strip

  class Application < Rails::Application
    config.load_defaults 6.1
    config.cache_classes = true
    config.eager_load = true
    # An application with `credentials.yml.enc` has it there.
    config.secret_key_base = Rails.root.join("config/master.key").read.strip
    config.active_record.dump_schema_after_migration = false
    # All releases have one folder of assets, and each keeps for itself which of them are its own.
    config.assets.manifest = Rails.root.join("config/assets-manifest.json")
    config.assets.compile = false
  end
end
