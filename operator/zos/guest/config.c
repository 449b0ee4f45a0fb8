/* Reads the guest's configuration: lines of words, percent-encoded. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIMIT = 8 << 20, MAX_FIELDS = 4 };

static char *read_all(const char *path)
{
	char *buffer = must_alloc(LIMIT + 1);
	size_t size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("configuration %s: %s", path, strerror(errno));
	for (;;) {
		ssize_t got = read(fd, buffer + size, LIMIT - size);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			fail("configuration %s: %s", path, strerror(errno));
		if (got == 0)
			break;
		size += (size_t)got;
	}
	close(fd);
	buffer[size] = 0;
	return buffer;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* In place. Gives the decoded length; a content may hold zero bytes. */
static size_t decode(char *field)
{
	char *to = field;
	for (char *from = field; *from; from++) {
		if (*from == '%' && hex(from[1]) >= 0 && hex(from[2]) >= 0) {
			*to++ = (char)(hex(from[1]) << 4 | hex(from[2]));
			from += 2;
		} else {
			*to++ = *from;
		}
	}
	*to = 0;
	return (size_t)(to - field);
}

static size_t room(size_t used, size_t limit, const char *word)
{
	if (used >= limit)
		fail("configuration: more than %zu lines of \"%s\"", limit, word);
	return used;
}

static void take(struct config *config, char *word, char **field, size_t *length, size_t n)
{
	struct interface *nic = config->n_interfaces ? &config->interfaces[config->n_interfaces - 1] : NULL;

#define IS(name, fields) (strcmp(word, name) == 0 && n == (fields))
	if (IS("hostname", 1)) {
		config->hostname = field[0];
	} else if (IS("root", 1)) {
		config->root = field[0];
	} else if (IS("interface", 2)) {
		nic = &config->interfaces[room(config->n_interfaces++, MAX_INTERFACES, word)];
		nic->mac = field[0];
		nic->mtu = (unsigned)strtoul(field[1], NULL, 10);
	} else if (IS("ipv6", 1) && nic) {
		nic->ipv6 = field[0];
	} else if (IS("address", 1) && nic) {
		nic->addresses[room(nic->n_addresses++, MAX_ADDRESSES, word)] = field[0];
	} else if (IS("route", 2) && nic) {
		nic->routes[room(nic->n_routes++, MAX_ROUTES, word)] = (struct route){field[0], field[1]};
	} else if (IS("disk", 3)) {
		room(config->n_disks++, MAX_DISKS, word);
		config->mounts[config->n_mounts++] = (struct mount){.source = field[0], .format = field[1], .path = field[2]};
	} else if ((IS("share", 3) || IS("share", 4)) && (strcmp(field[2], "ro") == 0 || strcmp(field[2], "rw") == 0)) {
		room(config->n_shares++, MAX_SHARES, word);
		config->mounts[config->n_mounts++] = (struct mount){
			.source = field[0], .path = field[1], .read_only = strcmp(field[2], "ro") == 0,
			.inside = n == 4 ? field[3] : NULL, .hidden = -1,
		};
	} else if (IS("file", 3)) {
		config->files[room(config->n_files++, MAX_FILES, word)] =
			(struct file){field[0], field[2], length[2], (unsigned)strtoul(field[1], NULL, 8)};
	} else if (IS("env", 1)) {
		config->env[room(config->n_env++, MAX_WORDS, word)] = field[0];
	} else if (IS("workdir", 1)) {
		config->workdir = field[0];
	} else if (IS("user", 1)) {
		config->user = field[0];
	} else if (IS("stop", 2)) {
		config->stop_signal = atoi(field[0]);
		config->stop_seconds = (unsigned)strtoul(field[1], NULL, 10);
	} else if (IS("init", 0)) {
		config->init = true;
	} else if (IS("arg", 1)) {
		config->args[room(config->n_args++, MAX_WORDS, word)] = field[0];
	} else {
		fail("configuration: can't make anything of a line of \"%s\" with %zu fields", word, n);
	}
#undef IS
}

void config_read(const char *path, struct config *config)
{
	char *rest = read_all(path), *line, *header = strsep(&rest, "\n");
	if (strcmp(header, "zos-guest 1") != 0)
		fail("configuration: not one that this guest understands");
	while ((line = strsep(&rest, "\n"))) {
		char *word = strsep(&line, " "), *field[MAX_FIELDS];
		size_t n = 0, length[MAX_FIELDS];
		if (strcmp(word, "end") == 0)
			return;
		if (!*word)
			break;
		for (char *next; n < MAX_FIELDS && (next = strsep(&line, " ")); n++) {
			field[n] = next;
			length[n] = decode(next);
		}
		take(config, word, field, length, n);
	}
	fail("configuration: cut off before its end");
}
