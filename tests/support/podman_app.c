#define _GNU_SOURCE
// The server in the images of the tests: one static program. Variables tell it what to do.
//   RELEASE   what it answers
//   BEHAVIOR  works (by default), never (status 503), exits (at once, status 3), ends (after 600 ms, status 9), falls-ill (503 after
//             500 ms), slow (listens after 700 ms), stubborn (ignores SIGTERM)
//   PORT      where it listens, 8080 by default
//   GREETING  is added to the answer; else the first three letters of /run/secrets/DB_PASSWORD, if that is there
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static void end(int signal) {
    (void)signal;
    write(1, "asked to end\n", 13);
    _exit(0);
}

static void fall(int signal) {
    (void)signal;
    write(1, "out of memory\n", 14);
    _exit(9);
}

static void serve(int connection, const char *body, const char *behavior, long began) {
    char request[8192];
    size_t have = 0;
    for (;;) {
        char *head;
        request[have] = 0;
        while (!(head = strstr(request, "\r\n\r\n"))) {
            ssize_t more = have < sizeof request - 1 ? read(connection, request + have, sizeof request - 1 - have) : 0;
            if (more <= 0) return;
            have += more;
            request[have] = 0;
        }
        char *length = strcasestr(request, "content-length:");
        size_t whole = head + 4 - request + (length && length < head ? strtoul(length + 15, 0, 10) : 0);
        while (have < whole) {
            ssize_t more = have < sizeof request - 1 ? read(connection, request + have, sizeof request - 1 - have) : 0;
            if (more <= 0) return;
            have += more;
        }
        int closes = strcasestr(request, "connection: close") != 0;
        int sick = !strcmp(behavior, "never") || (!strcmp(behavior, "falls-ill") && now() - began > 500);
        const char *said = sick ? "no connection to the database" : body;
        char answer[512];
        int size = snprintf(answer, sizeof answer, "HTTP/1.1 %s\r\ncontent-length: %zu\r\n%s\r\n%s", sick ? "503 x" : "200 OK", strlen(said),
                            closes ? "connection: close\r\n" : "", said);
        if (write(connection, answer, size) != size || closes) return;
        memmove(request, request + whole, have - whole);
        have -= whole;
    }
}

int main(void) {
    const char *behavior = variable("BEHAVIOR", "works");
    long began = now();
    setvbuf(stdout, 0, _IOLBF, 0);
    printf("release %s begins\n", variable("RELEASE", "?"));
    if (!strcmp(behavior, "exits")) {
        fprintf(stderr, "the database is not to be found\n");
        return 3;
    }
    signal(SIGTERM, strcmp(behavior, "stubborn") ? end : SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(behavior, "slow")) usleep(700000);
    char body[128], secret[4] = "";
    int file = open("/run/secrets/DB_PASSWORD", O_RDONLY);
    if (file >= 0) read(file, secret, 3);
    snprintf(body, sizeof body, "%s %s", variable("RELEASE", "?"), variable("GREETING", secret));
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(variable("PORT", "8080")))};
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 128)) {
        perror("the port");
        return 7;
    }
    if (!strcmp(behavior, "ends")) {
        signal(SIGALRM, fall);
        ualarm(600000, 0);
    }
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) continue;
        if (fork() == 0) {
            close(listener);
            signal(SIGTERM, SIG_DFL);
            serve(connection, body, behavior, began);
            _exit(0);
        }
        close(connection);
    }
}
