/* Kernel modules, block devices by serial, events of devices. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A list has one module's path a line, what is needed first. */
void modules_load(const char *list)
{
	char path[256];
	FILE *file = fopen(list, "re");
	if (!file)
		fail("modules %s: %s", list, strerror(errno));
	while (fgets(path, sizeof path, file)) {
		path[strcspn(path, "\n")] = 0;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		/* ENODEV: a faster way of something that this processor does not have. */
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && errno != ENODEV))
			fail("module %s: %s", path, strerror(errno));
		close(fd);
	}
	fclose(file);
}

static bool serial_is(const char *device, const char *serial)
{
	char path[300], have[64] = "";
	snprintf(path, sizeof path, "/sys/block/%s/serial", device);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t size = read(fd, have, sizeof have - 1);
	close(fd);
	have[size > 0 ? size : 0] = 0;
	have[strcspn(have, "\n")] = 0;
	return strcmp(have, serial) == 0;
}

static const char *disk_look(const char *serial)
{
	static char path[300];
	DIR *dir = opendir("/sys/block");
	struct dirent *entry;
	const char *found = NULL;
	while (dir && !found && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && serial_is(entry->d_name, serial)) {
			snprintf(path, sizeof path, "/dev/%s", entry->d_name);
			found = path;
		}
	if (dir)
		closedir(dir);
	return found;
}

const char *disk_find(const char *serial)
{
	const char *found = disk_look(serial);
	if (found)
		return found;
	int fd = uevents_open(); /* before the next look, so that nothing is missed in between */
	found = disk_look(serial);
	for (int events = 0; !found && events < 200; events++) {
		struct pollfd wait = {fd, POLLIN, 0};
		char drop[8192];
		if (poll(&wait, 1, 5000) <= 0)
			break;
		(void)!read(fd, drop, sizeof drop);
		found = disk_look(serial);
	}
	close(fd);
	return found;
}

int uevents_open(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		fail("device events: %s", strerror(errno));
	return fd;
}

bool uevents_read(int fd, const char *device)
{
	char buffer[8193];
	bool found = false;
	ssize_t size;
	while ((size = read(fd, buffer, sizeof buffer - 1)) > 0) {
		bool resized = false;
		char *name = NULL;
		buffer[size] = 0;
		for (char *part = buffer; part < buffer + size; part += strlen(part) + 1) {
			if (strcmp(part, "RESIZE=1") == 0)
				resized = true;
			else if (strncmp(part, "DEVNAME=", 8) == 0)
				name = part + 8;
		}
		if (resized && name) {
			char *path = text("/dev/%s", name);
			mount_grow(path);
			found |= device && strcmp(path, device) == 0;
			free(path);
		}
	}
	return found;
}

int button_open(void)
{
	for (int i = 0; i < 16; i++) {
		unsigned long keys[KEY_CNT / (8 * sizeof(long)) + 1] = {0};
		struct input_id id = {0};
		int fd = open(text("/dev/input/event%d", i), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			continue;
		/* On the host's bus: a keyboard has such a key too. */
		if (ioctl(fd, EVIOCGID, &id) >= 0 && id.bustype == BUS_HOST && ioctl(fd, EVIOCGBIT(EV_KEY, sizeof keys), keys) >= 0 &&
		    keys[KEY_POWER / (8 * sizeof(long))] >> (KEY_POWER % (8 * sizeof(long))) & 1)
			return fd;
		close(fd);
	}
	return -1;
}

bool button_pressed(int fd)
{
	struct input_event event;
	bool pressed = false;
	while (read(fd, &event, sizeof event) == sizeof event)
		pressed |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
	return pressed;
}
