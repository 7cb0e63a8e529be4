# What a visitor reads.
class Greeting < ActiveRecord::Base
end
