/**
 * Owns which variables a credential may not be: those by which a program loads other code, reads other settings or speaks through somebody
 * else. A broker that fell into other hands could end what it hands out; it must not run something in every job besides.
 */

/** The shell's and the loader's, the languages', and those of tools that jobs are made of. */
const STEERING = [
  /^(?:PATH|IFS|ENV|HOME|SHELL|PWD|OLDPWD|CDPATH|FPATH|ZDOTDIR|PS[0-4]|PROMPT_COMMAND|SHELLOPTS|BASHOPTS|BASH_\w+|TMPDIR|XDG_\w+)$/,
  /^(?:LD|DYLD|MALLOC)_\w+$|^(?:GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH|LOCALDOMAIN|RES_OPTIONS|HOSTALIASES)$/,
  /^(?:NODE|NPM|YARN|PNPM|DENO|BUN|GEM|BUNDLE|JAVA|JDK|MAVEN|GRADLE|DOTNET|COMPLUS|CARGO|RUSTC?|CGO)_\w+$|^(?:PYTHON|PERL|RUBY|PHP)\w+$/,
  /^(?:_JAVA_OPTIONS|CLASSPATH|GO(?:FLAGS|PATH|ROOT|BIN|ENV|PROXY|PRIVATE|SUMDB|NOSUMDB|NOPROXY|INSECURE|TOOLCHAIN)|MAKEFLAGS|CC|CXX|CFLAGS|LDFLAGS)$/,
  /^(?:GIT|SSH|SVN|HG|CURL|SSL|OPENSSL|DOCKER|COMPOSE|HELM|PSQL)_\w+$|^(?:KUBECONFIG|PSQLRC|PGSYSCONFDIR|PGLOADBALANCEHOSTS|WGETRC|NETRC)$/,
  /^(?:CURFEW|FAKETIME)_\w+$/,
  /^(?:EDITOR|VISUAL|PAGER|BROWSER|LESS\w*|MANPAGER)$|^\w+_PROXY$/,
]

/** Of an environment that a job can be given: a name of capitals that steers nothing. */
export const mayHandOver = (name: string): boolean => /^[A-Z][A-Z0-9_]{0,63}$/.test(name) && !STEERING.some(names => names.test(name))
