Rails.application.routes.draw do
  root "greetings#show"
  get "/health", to: "greetings#health"
end
