/* The entrypoint: user, environment, working directory, program. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct account { uid_t uid; gid_t gid; char *name, *home; };

static bool number(const char *word, unsigned *value)
{
	char *end;
	*value = (unsigned)strtoul(word, &end, 10);
	return *word && !*end;
}

/* "name-or-id[:group-or-id]", by the image's own /etc/passwd and /etc/group. */
static struct account account_find(const char *wanted)
{
	struct account account = {0, 0, "root", "/root"};
	char *user = text("%s", wanted), *group = strchr(user, ':');
	unsigned id = 0;
	if (group)
		*group++ = 0;
	if (*user) {
		bool known = number(user, &id), named = false;
		FILE *file = fopen("/etc/passwd", "re");
		for (struct passwd *entry; file && !named && (entry = fgetpwent(file));)
			if (strcmp(entry->pw_name, user) == 0 || (known && entry->pw_uid == id)) {
				account = (struct account){entry->pw_uid, entry->pw_gid, text("%s", entry->pw_name), text("%s", entry->pw_dir)};
				named = true;
			}
		if (file)
			fclose(file);
		if (!named && !known)
			fail("user %s: not in the image's /etc/passwd", user);
		if (!named)
			account = (struct account){id, 0, user, "/"};
	}
	if (group && *group && !number(group, &account.gid)) {
		bool named = false;
		FILE *file = fopen("/etc/group", "re");
		for (struct group *entry; file && !named && (entry = fgetgrent(file));)
			if (strcmp(entry->gr_name, group) == 0) {
				account.gid = entry->gr_gid;
				named = true;
			}
		if (file)
			fclose(file);
		if (!named)
			fail("group %s: not in the image's /etc/group", group);
	}
	return account;
}

/* The groups that list the user as a member. */
static void join_groups(const struct account *account)
{
	gid_t groups[64] = {account->gid};
	size_t n = 1;
	FILE *file = fopen("/etc/group", "re");
	for (struct group *entry; file && (entry = fgetgrent(file));)
		for (char **member = entry->gr_mem; *member && n < 64; member++)
			if (strcmp(*member, account->name) == 0 && entry->gr_gid != account->gid)
				groups[n++] = entry->gr_gid;
	if (file)
		fclose(file);
	setgroups(n, groups);
}

static bool has(char *const *env, const char *name)
{
	size_t length = strlen(name);
	for (; *env; env++)
		if (strncmp(*env, name, length) == 0 && (*env)[length] == '=')
			return true;
	return false;
}

/* Where execvp would look, so that what the guest says of a missing program names it. */
static void run(const struct config *config, const struct account *account)
{
	size_t n = 0;
	for (; config->env[n]; n++)
		putenv(config->env[n]);
	if (!has(config->env, "PATH"))
		setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	if (!has(config->env, "HOME"))
		setenv("HOME", account->home, 1);
	if (!has(config->env, "TERM"))
		setenv("TERM", "linux", 1);
	if (!has(config->env, "HOSTNAME"))
		setenv("HOSTNAME", config->hostname, 1);
	execvp(config->args[0], config->args);
}

void process_become(const struct config *config)
{
	struct account root = {0, 0, "root", "/root"};
	sigset_t none;
	sigemptyset(&none);
	clearenv();
	umask(022);
	sigprocmask(SIG_SETMASK, &none, NULL);
	run(config, &root);
	fail("%s: %s", config->args[0], strerror(errno));
}

int process_start(const struct config *config)
{
	struct account account = account_find(config->user ? config->user : "");
	const char *workdir = config->workdir && *config->workdir ? config->workdir : "/";
	int told[2];
	if (!config->n_args)
		fail("entrypoint: none given, and the image has none");
	make_parents(text("%s/", workdir), 0755);
	if (pipe2(told, O_CLOEXEC) < 0)
		fail("pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid == 0) {
		sigset_t none;
		char *problem;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		int console = open("/dev/console", O_RDWR);
		if (console >= 0) {
			ioctl(console, TIOCSCTTY, 1);
			dup2(console, 0);
			dup2(console, 1);
			dup2(console, 2);
			fchown(console, account.uid, (gid_t)-1);
			if (console > 2)
				close(console);
		}
		umask(022);
		clearenv();
		join_groups(&account);
		if (!mount_switch())
			problem = text("enter the image: %s", strerror(errno));
		else if (setgid(account.gid) < 0 || setuid(account.uid) < 0)
			problem = text("user %s: %s", account.name, strerror(errno));
		else if (chdir(workdir) < 0)
			problem = text("working directory %s: %s", workdir, strerror(errno));
		else {
			run(config, &account);
			problem = text("entrypoint %s: %s", config->args[0], strerror(errno));
		}
		(void)!write(told[1], problem, strlen(problem));
		_exit(127);
	}
	/* The pipe closes when the program has started; else it tells why not. */
	char problem[512] = "";
	close(told[1]);
	ssize_t size;
	while ((size = read(told[0], problem, sizeof problem - 1)) < 0 && errno == EINTR)
		;
	close(told[0]);
	if (size > 0) {
		problem[size] = 0;
		waitpid(pid, NULL, 0);
		fail("%s", problem);
	}
	return pid;
}
