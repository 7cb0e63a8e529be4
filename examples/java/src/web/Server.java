package web;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** Serves a greeting at /, the price of some articles at /price?3, and at /health the release that this process runs. */
public class Server {
    private static final String RELEASE = Server.class.getPackage().getImplementationVersion();

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 128);
        server.setExecutor(Executors.newFixedThreadPool(16));
        server.createContext("/", exchange -> answer(exchange, 200, "text/plain", "Hello from shop\n"));
        server.createContext("/price", Server::answerPrice);
        server.createContext("/health", exchange ->
            answer(exchange, 200, "application/json", "{\"release\": \"" + RELEASE + "\"}\n"));
        // supervisord ends it with SIGTERM: what was asked is answered first. Java 17 takes these seconds in any case.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(2)));
        server.start();
    }

    /** In cents. */
    static int price(int articles) {
        return articles * 250;
    }

    private static void answerPrice(HttpExchange exchange) throws IOException {
        String articles = exchange.getRequestURI().getQuery();
        if (articles == null || !articles.matches("[0-9]{1,6}")) {
            answer(exchange, 400, "text/plain", "how many articles?\n");
        } else {
            answer(exchange, 200, "application/json", "{\"price\": " + price(Integer.parseInt(articles)) + "}\n");
        }
    }

    private static void answer(HttpExchange exchange, int status, String type, String text) throws IOException {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", type);
        boolean isHead = exchange.getRequestMethod().equals("HEAD");
        exchange.sendResponseHeaders(status, isHead ? -1 : body.length);
        if (!isHead) {
            exchange.getResponseBody().write(body);
        }
        exchange.close();
    }
}
