# A greeting at /, and at /health the release that this process runs.
class GreetingsController < ActionController::Base
  def show
    @greeting = Greeting.last
  end

  def health
    render json: { release: Web::RELEASE }
  end
end
