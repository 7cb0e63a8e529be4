# The table of greetings, with the first one.
class CreateGreetings < ActiveRecord::Migration[6.1]
  def change
    create_table(:greetings) { |table| table.string :text, null: false }
    reversible { |way| way.up { execute "INSERT INTO greetings (text) VALUES ('Hello from shop')" } }
  end
end
