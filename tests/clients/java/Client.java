import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * java.net.http: a client for each thread. ../README.md has the variables that are read here and the lines that are written.
 */
public final class Client {
    /** How long a request may take before it is an error. */
    private static final Duration PATIENCE = Duration.ofSeconds(10);

    private static final String URL = "http://" + System.getenv("CLIENT_TARGET") + "/";
    private static final int BURST = number("CLIENT_BURST");
    private static final int THINK_MIN = number("CLIENT_THINK_MIN_MS");
    private static final int THINK_MAX = number("CLIENT_THINK_MAX_MS");

    /** Open when the client shall end. */
    private static final CountDownLatch STOP = new CountDownLatch(1);

    private Client() {
    }

    public static void main(String[] arguments) throws Exception {
        say("library java.net.http " + Runtime.version());
        List<Thread> workers = new ArrayList<>();
        for (int worker = 0; worker < number("CLIENT_CONNECTIONS"); worker++) {
            int number = worker;
            Thread thread = new Thread(() -> work(number));
            thread.start();
            workers.add(thread);
        }
        while (System.in.read() >= 0) {
            // Only the end of the input means something.
        }
        STOP.countDown();
        for (Thread worker : workers) {
            worker.join();
        }
        System.exit(0);
    }

    private static void work(int worker) {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        boolean stopped = silence(0, THINK_MAX);
        for (int next = 0; !stopped; stopped = silence(THINK_MIN, THINK_MAX)) {
            for (int n = 0; n < BURST; n++, next++) {
                ask(client, worker + "-" + next);
            }
        }
    }

    private static void ask(HttpClient client, String id) {
        say("sent " + id);
        try {
            HttpRequest request = HttpRequest.newBuilder(URI.create(URL + id))
                .POST(HttpRequest.BodyPublishers.noBody())
                .timeout(PATIENCE)
                .build();
            String answer = client.send(request, HttpResponse.BodyHandlers.ofString()).body();
            say(answer.equals(id) ? "ok " + id : "error " + id + " answered " + answer);
        } catch (Exception error) {
            say("error " + id + " " + error.toString().replace('\n', ' '));
        }
    }

    /** Waits, and tells whether the client shall end. */
    private static boolean silence(int from, int to) {
        try {
            return STOP.await(ThreadLocalRandom.current().nextLong(from, to + 1L), TimeUnit.MILLISECONDS);
        } catch (InterruptedException error) {
            return true;
        }
    }

    private static void say(String line) {
        synchronized (System.out) {
            System.out.println(line);
            System.out.flush();
        }
    }

    private static int number(String variable) {
        return Integer.parseInt(System.getenv(variable));
    }
}
