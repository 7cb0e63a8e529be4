exports.greeting = 'Hello from shop';
