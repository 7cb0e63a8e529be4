INSERT INTO product (name, price_cents) VALUES ('ratchet', 1900);
INSERT INTO product (name, price_cents) VALUES ('pawl', 450);
